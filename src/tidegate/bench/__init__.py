"""`tidegate bench`: the same load on the mock, on nginx and on Tidegate, in one run."""
