-- Lines and payments are what their order's newest version says, so a version of their own says nothing more. Without it,
-- a line that a version leaves as it was need not be written again.
ALTER TABLE order_lines DROP COLUMN version;
ALTER TABLE payments DROP COLUMN version;
