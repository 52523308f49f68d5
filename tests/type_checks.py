"""An import hook that checks types at run time, without slowing down what is traced.

jaxtyping's own hook decorates closures too, each time that they are made, and binds signatures in
Python: tracing takes up to ten times as long. It is left to the packages whose annotations state
shapes; the rest have their module-level functions and their methods checked by beartype.
"""

from __future__ import annotations

import ast
import sys
from importlib.machinery import PathFinder, SourceFileLoader

from beartype import BeartypeConf, beartype

# The decorator.
checked = beartype(conf=BeartypeConf(violation_type=TypeError))


class Checker(ast.NodeTransformer):
    """Decorates functions and methods, but not what they define inside."""

    def visit_FunctionDef(self, node):
        decorator = ast.parse(f"__import__({__name__!r}).checked", mode="eval").body
        # The innermost: others may remove annotations, or add methods, as `custom_jvp` does.
        node.decorator_list.append(decorator)
        return node


class Loader(SourceFileLoader):
    def get_code(self, fullname):
        # Past the cache of compiled modules, whose functions are not decorated.
        path = self.get_filename(fullname)
        tree = Checker().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class Finder:
    def __init__(self, package, but):
        self._package, self._but = package, but

    def find_spec(self, name, path=None, target=None):
        if not _within(name, [self._package]) or _within(name, self._but):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def _within(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


def check_types(package, but):
    """Check what will be imported of a package, but for some of its subpackages."""
    sys.meta_path.insert(0, Finder(package, but))
