"""The statistics of studies: pure functions of the tidy frames that `repro.reports.reading` returns."""
