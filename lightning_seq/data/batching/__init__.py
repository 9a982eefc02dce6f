"""Which tokens make which batch, as pure functions of the step, and loaders that resume exactly."""
