"""What maintainers run and nobody installs."""
