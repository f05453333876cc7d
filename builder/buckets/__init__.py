"""Files in object stores and on web servers, by URI: read in parts, listed, written. Nothing else knows fsspec."""
