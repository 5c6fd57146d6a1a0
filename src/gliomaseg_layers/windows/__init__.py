"""``python -m gliomaseg_layers.windows FOLDER``: the loss's window, from your own masks."""

__all__: list[str] = []
