"""What the shop and its chat are about: titles, intents, phrasings, releases. Knows nothing of networks."""
