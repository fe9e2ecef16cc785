"""Language-guided few-shot segmentation: an image, a class nobody annotated, a mask.

One notebook, one subpackage: `data` (01), `vision` (02, 02b), `language` (03), `retrieval` (04), `evaluation` (05).
"""

__version__ = "0.2.0"
__all__ = ["LLaFS"]


def __getattr__(name: str):
    # `import llafs_lib` stays quick: torch is imported only when the model is wanted.
    if name == "LLaFS":
        from llafs_lib.pipeline import LLaFS

        return LLaFS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
