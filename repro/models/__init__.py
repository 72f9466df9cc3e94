"""Networks: policies with a scalar head or a vocabulary, sampling, ranks, files and the hub. No detail is read here."""
