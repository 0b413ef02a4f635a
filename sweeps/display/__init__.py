"""How numbers, tables and figures look, and the page that the reports extend."""
