-- A policy whose masks nobody sees though its fence stands: disabled, or suspended for a migration of its table.
ALTER TABLE scrim_state.policies ADD COLUMN enabled boolean NOT NULL DEFAULT true, ADD COLUMN suspended boolean NOT NULL DEFAULT false;

-- Masked views of policies that were replaced. Statements that were planned before go on with them, until a later replacement drops them.
CREATE TABLE scrim_state.replaced_views (
    view        oid PRIMARY KEY,
    relation    oid NOT NULL,
    replaced_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
