"""Batches, loss, optimizer and the engine that steps every slot."""
