"""Teachers from torchvision."""
