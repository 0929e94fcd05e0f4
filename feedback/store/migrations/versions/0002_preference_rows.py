"""Dataset rows that prefer one answer to another, or rate one."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Apply this step."""
    with op.batch_alter_table("dataset_rows") as table:
        table.add_column(sa.Column("chosen", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("rejected", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("label", sa.Boolean(), nullable=True))


def downgrade() -> None:
    """Undo this step."""
    with op.batch_alter_table("dataset_rows") as table:
        for name in ("label", "rejected", "chosen"):
            table.drop_column(name)
