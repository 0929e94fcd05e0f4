"""Changes to the tree of a chat template: the counting, and the marks of a trainer."""

from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer


class Ticks(NodeTransformer):
    """Puts calls of `tick` and `concatenate` of the environment into the tree of a template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Count the rounds of a loop, and the members that its condition leaves out."""
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_call("tick", node.lineno, []), node.test, lineno=node.lineno)
        return self._begin(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        """Count the calls of a macro."""
        self.generic_visit(node)
        return self._begin(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        """Count the calls of a block that is given to a macro."""
        self.generic_visit(node)
        return self._begin(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Measure what `~` makes."""
        self.generic_visit(node)
        return _call("concatenate", node.lineno, node.nodes)

    def _begin(self, node: Any) -> nodes.Node:
        written = sum(
            len(data.data) for part in node.body for data in part.find_all(nodes.TemplateData)
        )
        tick = _call("tick", node.lineno, [nodes.Const(written, lineno=node.lineno)])
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        result: nodes.Node = node
        return result


class GenerationMarks(Extension):
    """`{% generation %}…{% endgeneration %}` marks the answer for a trainer; a server prints it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Give what stands between the marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _call(name: str, line: int, arguments: list[nodes.Expr]) -> nodes.Call:
    function = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)
