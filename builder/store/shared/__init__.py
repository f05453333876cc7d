"""Images that versions share: each lies once in the store, and versions hold labels only."""
