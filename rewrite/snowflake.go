package rewrite

import "strings"

// Snowflake's spelling of SQL masks: a policy is defined once, as an expression of arguments, and then set on columns. It comes to
// the same as CREATE MASKING POLICY ... ON ... USING (expression).
// https://docs.snowflake.com/en/sql-reference/sql/create-masking-policy

// DefineMaskingPolicy is CREATE MASKING POLICY ... AS.
type DefineMaskingPolicy struct {
	Name string
	// Arguments and their Types. The first is the masked column.
	Arguments, Types []string
	Returns          string
	Expression       Expression
	IfNotExists      bool
	OrReplace        bool
}

// SetColumnMask is ALTER TABLE ... ALTER COLUMN ... SET MASKING POLICY.
type SetColumnMask struct {
	Table    string
	IfExists bool
	Column   string
	Policy   string
	Using    []string // columns for the arguments; empty: the column alone
	Force    bool     // replace the policy that the column has
}

// UnsetColumnMask is ALTER TABLE ... ALTER COLUMN ... UNSET MASKING POLICY.
type UnsetColumnMask struct {
	Table    string
	IfExists bool
	Column   string
}

// DropMaskDefinition is DROP MASKING POLICY without a table.
type DropMaskDefinition struct {
	Name     string
	IfExists bool
}

// SetMaskBody is ALTER MASKING POLICY ... SET BODY.
type SetMaskBody struct {
	Name       string
	Expression Expression
}

// Tag implements Command.
func (DefineMaskingPolicy) Tag() string { return "CREATE MASKING POLICY" }

// Tag implements Command.
func (SetColumnMask) Tag() string { return "ALTER TABLE" }

// Tag implements Command.
func (UnsetColumnMask) Tag() string { return "ALTER TABLE" }

// Tag implements Command.
func (DropMaskDefinition) Tag() string { return "DROP MASKING POLICY" }

// Tag implements Command.
func (SetMaskBody) Tag() string { return "ALTER MASKING POLICY" }

func (p *parser) defineMaskingPolicy(begun CreateMaskingPolicy) Command {
	c := DefineMaskingPolicy{Name: begun.Name, IfNotExists: begun.IfNotExists, OrReplace: begun.OrReplace}
	p.need("(")
	for {
		c.Arguments = append(c.Arguments, p.ident("an argument name"))
		c.Types = append(c.Types, p.typeName())
		if !p.try(",") {
			break
		}
	}
	p.need(")")
	p.need("RETURNS")
	c.Returns = p.typeName("->")
	p.need("->")
	c.Expression = p.body()
	return c
}

// alterTable reads the two forms of ALTER TABLE that are ours. It returns nil for PostgreSQL's.
func (p *parser) alterTable() Command {
	if !p.setsMask() {
		return nil
	}
	ifExists := p.try("IF", "EXISTS")
	table := p.relation()
	if !p.try("MODIFY") {
		p.need("ALTER")
	}
	p.try("COLUMN")
	column := p.ident("a column name")
	if p.try("UNSET", "MASKING", "POLICY") {
		return UnsetColumnMask{Table: table, IfExists: ifExists, Column: column}
	}
	p.need("SET", "MASKING", "POLICY")
	c := SetColumnMask{Table: table, IfExists: ifExists, Column: column, Policy: p.ident("a policy name")}
	if p.try("USING") {
		c.Using = p.columns()
	}
	c.Force = p.try("FORCE")
	return c
}

// setsMask looks ahead for what PostgreSQL's ALTER TABLE does not have: SET or UNSET MASKING POLICY behind a column.
func (p *parser) setsMask() bool {
	is := func(i int, words ...string) bool {
		for _, w := range words {
			if strings.EqualFold(p.spell(i), w) {
				return true
			}
		}
		return false
	}
	for i := p.next + 1; i < len(p.tokens); i++ {
		if !is(i, "ALTER", "MODIFY") {
			continue
		}
		column := i + 1
		if is(column, "COLUMN") {
			column++
		}
		if is(column+1, "SET", "UNSET") && is(column+2, "MASKING") && is(column+3, "POLICY") {
			return true
		}
	}
	return false
}
