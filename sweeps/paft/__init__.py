"""The PAFT study: what each training arm scored and cost, its tables and figures, its part of the report."""
