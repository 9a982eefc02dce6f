"""Where texts and ids come from: local files, datasets, the Hub, what every Python carries."""
