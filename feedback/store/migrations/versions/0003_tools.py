"""The tools that a conversation may call, beside its messages."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_TABLES = ("interactions", "dataset_rows")


def upgrade() -> None:
    """Apply this step."""
    for name in _TABLES:
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("tools", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    """Undo this step."""
    for name in _TABLES:
        with op.batch_alter_table(name) as table:
            table.drop_column("tools")
