"""What tests share: stand-ins, makers, small models."""
