package rewrite

import (
	"slices"
	"strings"
)

// Expressions in statements of ours are PostgreSQL's. They are cut out of the text by tokens of PostgreSQL's scanner, so that strings and
// comments are read as PostgreSQL reads them, and are parsed by its grammar: whoever takes the text puts it in parentheses and must
// get one expression.

// Expression is one of PostgreSQL's in a statement of ours.
type Expression struct {
	Text string
	// Offset is where it is in the statement's text, in bytes.
	Offset int
}

// String returns the text.
func (x Expression) String() string { return x.Text }

// Expressions are those of a statement of ours.
func Expressions(cmd Command) []Expression {
	switch c := cmd.(type) {
	case CreateMaskingPolicy:
		return []Expression{c.Expression, c.Condition}
	case DefineMaskingPolicy:
		return []Expression{c.Expression}
	case SetMaskBody:
		return []Expression{c.Expression}
	}
	return nil
}

// parenthesized reads an expression in parentheses, and returns it without them.
func (p *parser) parenthesized() Expression {
	p.need("(")
	from := p.next
	p.until(func(token string) bool { return token == ")" })
	text := p.expression(from)
	p.need(")")
	return text
}

// body reads the expression that the rest of the statement is.
func (p *parser) body() Expression {
	from, end := p.next, len(p.tokens)
	for end > from && p.spell(end-1) == ";" {
		end--
	}
	p.next = end
	return p.expression(from)
}

// until goes on to the first token that ends what is read, outside of parentheses and brackets, or that closes one which was not
// opened there, or to the end.
func (p *parser) until(ends func(token string) bool) {
	for depth := 0; p.next < len(p.tokens); p.next++ {
		token := p.spell(p.next)
		if depth == 0 && ends(token) {
			return
		}
		switch token {
		case "(", "[":
			depth++
		case ")", "]":
			if depth--; depth < 0 {
				return
			}
		}
	}
}

// expression returns the text from a token up to here, which must be one expression.
func (p *parser) expression(from int) Expression {
	end := p.next
	p.next = from
	if from == end || slices.Contains([]string{"SELECT", "VALUES", "WITH", "TABLE"}, strings.ToUpper(p.spell(from))) {
		p.fail("an expression")
	}
	p.until(func(token string) bool { return token == "," })
	if p.next < end { // it would be a row, or leave the parentheses that it is put in
		p.fail("one expression")
	}
	p.next = end
	p.noRoleCalls(from)
	return Expression{Text: p.parsed("SELECT (", from, ")"), Offset: p.offset(from)}
}

// noRoleCalls refuses what people who know Snowflake write: PostgreSQL would see a stray parenthesis.
func (p *parser) noRoleCalls(from int) {
	for i := from; i < p.next; i++ {
		if word := strings.ToUpper(p.spell(i)); (word == "CURRENT_ROLE" || word == "CURRENT_USER") && p.spell(i+1) == "(" {
			refuse(codeSyntaxError, p.offset(i+1), "Write session_user, without parentheses: masks go by the role that logged in, which is written 'in_small_letters' unless it was quoted.",
				"syntax error at or near %q", "(")
		}
	}
}

// typeName reads the name of a type, up to a token that ends it.
func (p *parser) typeName(ends ...string) string {
	from := p.next
	p.until(func(token string) bool {
		return slices.Contains(ends, token) || token == "," || token == ")" || token == ";"
	})
	if from == p.next {
		p.fail("a type")
	}
	return p.parsed("SELECT CAST(NULL AS ", from, ")")
}

// parsed returns the text from a token up to here, which PostgreSQL's grammar must take between two others.
func (p *parser) parsed(before string, from int, after string) string {
	start := p.offset(from)
	text := p.text[start:p.tokens[p.next-1].GetEnd()]
	whole := before + text + after
	result, err := parse(whole)
	switch wrong := syntaxError(err, whole); {
	case wrong != nil:
		panic(shifted(wrong, start-len(before)))
	case err != nil:
		refuse(codeTooComplex, start, "", "%v", err)
	case len(result.GetStmts()) != 1:
		refuse(codeSyntaxError, start, "", "syntax error at or near %q", p.spell(from))
	}
	return text
}
