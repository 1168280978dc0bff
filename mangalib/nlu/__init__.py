"""What a question means: its intent, its topic, its titles, and which known answer it asks for."""
