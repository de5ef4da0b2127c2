"""The templates of the report, with escaping and without names that nobody defined."""

import jinja2

from reflow.report.numbers import tell


def template(name: str) -> jinja2.Template:
    """Return a template by its file name; what is written as JSON has its keys sorted."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reflow.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tell"] = tell
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    return environment.get_template(name)
