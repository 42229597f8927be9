"""What the layers keep for the backward pass and make in it: the programme of a layer, played forwards and backwards without torch."""
