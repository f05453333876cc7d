"""Human labels of every format in one record."""
