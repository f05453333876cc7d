"""Why a student is no better: what a run or a study left behind, read as plain facts and judged by them."""
