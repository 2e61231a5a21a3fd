"""Files that are almost valid, and what their readers say of them."""
