"""The library that draws a page's figures, as one script to put into the page.

Vega, Vega-Lite and their embedding come inside the package vl-convert, which needs seconds to bundle them; the bundle
is kept in the user's cache, under the versions that it is made of.
"""

from contextlib import suppress
from importlib import metadata

from rsl_cli.study.files import user_cache, write_atomic


def vega_script() -> str:
    """Return JavaScript that defines ``vegaEmbed``, from the cache where it is there."""
    kept = user_cache() / f"vega-{metadata.version('vl-convert-python')}.js"
    with suppress(OSError, UnicodeDecodeError):
        script = kept.read_text(encoding="utf-8")
        # A file that another program damaged is made again.
        if script.rstrip().endswith(_LAST):
            return script
    import vl_convert

    script = f"{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}\n{_LAST}\n"
    if "</script" in script:
        raise RuntimeError("the bundle of Vega cannot stand inside a page")
    with suppress(Exception):
        write_atomic(kept, script.encode())
    return script


_LAST = "/* end of Vega */"
