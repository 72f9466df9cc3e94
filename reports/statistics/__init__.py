"""The statistics of studies: pure functions of the tidy frames that `reports.reading` returns."""
