"""The browser-side parts: a wall of small pictures, and a picture with a map over it."""
