"""From run folders to one page of HTML: what a run wrote, as tables and figures that can be explored."""
