"""Networks: policy and scalar model, log-probabilities, sampling, ranks, files and the hub. No detail is read here."""
