"""What goes over the WebSocket, and the life of a session: pure, without I/O."""
