"""What runs in the pods of a FineTuneJob: inspect, train, publish. Importing this package imports no torch."""
