package rewrite

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// predicate is a condition on those columns of one mention that the role sees as they are, spelled for its masked view v, with a hole for each
// parameter. table is the same for the table.
type predicate struct {
	template
	table string
	shown string // the same for people, as the client wrote it
}

// filter collects the conditions among the conjuncts of node that are about one mention alone and need no code. Rows
// that do not meet them need none either. They are written again, in words of our own, so they are of few kinds: no
// function that could be volatile, no subquery.
func (a *analysis) filter(node *pg_query.Node, s *scope, allowed func(*instance) bool) {
	for _, c := range conjuncts(node, nil) {
		w := writer{scope: s, fixed: a.fixed}
		if w.write(c); !w.failed && w.inst != nil && allowed(w.inst) {
			w.inst.filters = append(w.inst.filters, predicate{
				template: template{text: w.b.String(), holes: w.holes}, table: w.table.String(),
				shown: template{text: w.shown.String(), holes: w.holes}.fill(asParameter),
			})
		}
	}
}

func conjuncts(node *pg_query.Node, list []*pg_query.Node) []*pg_query.Node {
	switch b := node.GetBoolExpr(); {
	case node == nil:
		return list
	case b.GetBoolop() == pg_query.BoolExprType_AND_EXPR:
		for _, arg := range b.GetArgs() {
			list = conjuncts(arg, list)
		}
		return list
	}
	return append(list, node)
}

// writer spells an expression. It fails on whatever it does not know.
type writer struct {
	scope  *scope
	inst   *instance       // whose columns the expression has
	b      strings.Builder // over the masked view
	table  strings.Builder // over the table
	shown  strings.Builder // with the columns' bare names
	holes  []hole
	failed bool
	fixed  bool // parameters have no values
}

func (w *writer) add(parts ...string) {
	for _, p := range parts {
		w.b.WriteString(p)
		w.table.WriteString(p)
		w.shown.WriteString(p)
	}
}

func (w *writer) write(node *pg_query.Node) {
	if w.failed {
		return
	}
	switch n := node.GetNode().(type) {
	case *pg_query.Node_ColumnRef:
		w.column(n.ColumnRef)
	case *pg_query.Node_AConst:
		w.constant(n.AConst)
	case *pg_query.Node_ParamRef:
		w.failed = w.fixed
		w.add("\x00")
		w.holes = append(w.holes, hole{param: int(n.ParamRef.GetNumber())})
	case *pg_query.Node_BoolExpr:
		w.boolean(n.BoolExpr)
	case *pg_query.Node_AExpr:
		w.operation(n.AExpr)
	case *pg_query.Node_NullTest:
		w.add("(")
		w.write(n.NullTest.GetArg())
		w.add(map[bool]string{true: " IS NULL)", false: " IS NOT NULL)"}[n.NullTest.GetNulltesttype() == pg_query.NullTestType_IS_NULL])
		w.failed = w.failed || n.NullTest.GetArgisrow()
	case *pg_query.Node_TypeCast:
		w.add("(")
		w.write(n.TypeCast.GetArg())
		w.add(")::")
		w.typeName(n.TypeCast.GetTypeName())
	case *pg_query.Node_AArrayExpr:
		w.add("ARRAY")
		w.list("[", n.AArrayExpr.GetElements(), "]")
	case *pg_query.Node_FuncCall:
		w.call(n.FuncCall)
	default:
		w.failed = true
	}
}

func (w *writer) list(open string, nodes []*pg_query.Node, closing string) {
	w.add(open)
	for i, n := range nodes {
		if i > 0 {
			w.add(", ")
		}
		w.write(n)
	}
	w.add(closing)
}

// column writes a column of the masked view. All must be of one mention.
func (w *writer) column(ref *pg_query.ColumnRef) {
	of := w.scope.origin(ref)
	if of.inst == nil || w.inst != nil && w.inst != of.inst {
		w.failed = true
		return
	}
	w.inst = of.inst
	p := of.inst.mask.Protection
	name := p.Column(of.num).Name
	w.b.WriteString("v." + quote(openColumn(p, of.num)))
	w.table.WriteString("t." + quote(name))
	w.shown.WriteString(legible(name))
}

// origin returns the unmasked column of a mention that a reference means for certain, or zero. It looks in the innermost
// scope only.
func (s *scope) origin(ref *pg_query.ColumnRef) origin {
	fields := ref.GetFields()
	name := fields[len(fields)-1].GetString_().GetSval()
	switch {
	case name == "" || len(fields) > 2:
		return origin{}
	case len(fields) == 2:
		for _, it := range s.items {
			if it.name == fields[0].GetString_().GetSval() {
				return it.find(name).of
			}
		}
		return origin{}
	case s.all.open || slices.ContainsFunc(s.all.cols, func(c outColumn) bool { return c.name == "" }):
		return origin{}
	}
	return s.all.find(name).of
}

func (w *writer) constant(c *pg_query.A_Const) {
	switch v := c.GetVal().(type) {
	case nil:
		if c.GetIsnull() {
			w.add("NULL")
			return
		}
		w.failed = true
	case *pg_query.A_Const_Ival:
		w.add(fmt.Sprintf("(%d)", v.Ival.GetIval()))
	case *pg_query.A_Const_Fval:
		w.add("(", v.Fval.GetFval(), ")")
	case *pg_query.A_Const_Boolval:
		w.add(fmt.Sprint(v.Boolval.GetBoolval()))
	case *pg_query.A_Const_Sval:
		w.add(literal(v.Sval.GetSval()))
	default:
		w.failed = true
	}
}

func (w *writer) boolean(e *pg_query.BoolExpr) {
	word := " AND "
	w.add("(")
	switch e.GetBoolop() {
	case pg_query.BoolExprType_OR_EXPR:
		word = " OR "
	case pg_query.BoolExprType_NOT_EXPR:
		word = ""
		w.add("NOT ")
	}
	for i, arg := range e.GetArgs() {
		if i > 0 {
			w.add(word)
		}
		w.add("(")
		w.write(arg)
		w.add(")")
	}
	w.add(")")
}

// infix are the operators with a syntax of their own, by kind and the name that the parser gives them.
var infix = map[pg_query.A_Expr_Kind]map[string]string{
	pg_query.A_Expr_Kind_AEXPR_DISTINCT:        {"=": "IS DISTINCT FROM"},
	pg_query.A_Expr_Kind_AEXPR_NOT_DISTINCT:    {"=": "IS NOT DISTINCT FROM"},
	pg_query.A_Expr_Kind_AEXPR_LIKE:            {"~~": "LIKE", "!~~": "NOT LIKE"},
	pg_query.A_Expr_Kind_AEXPR_ILIKE:           {"~~*": "ILIKE", "!~~*": "NOT ILIKE"},
	pg_query.A_Expr_Kind_AEXPR_IN:              {"=": "IN", "<>": "NOT IN"},
	pg_query.A_Expr_Kind_AEXPR_BETWEEN:         {"BETWEEN": "BETWEEN"},
	pg_query.A_Expr_Kind_AEXPR_NOT_BETWEEN:     {"NOT BETWEEN": "NOT BETWEEN"},
	pg_query.A_Expr_Kind_AEXPR_BETWEEN_SYM:     {"BETWEEN SYMMETRIC": "BETWEEN SYMMETRIC"},
	pg_query.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM: {"NOT BETWEEN SYMMETRIC": "NOT BETWEEN SYMMETRIC"},
}

func (w *writer) operation(e *pg_query.A_Expr) {
	name := operatorName(e.GetName())
	kind := e.GetKind()
	if words := infix[kind]; words != nil {
		if name = words[lastString(e.GetName())]; name == "" || len(e.GetName()) != 1 {
			w.failed = true
			return
		}
	}
	w.add("(")
	if e.GetLexpr() != nil {
		w.write(e.GetLexpr())
		w.add(" ")
	}
	w.add(name, " ")
	right := e.GetRexpr().GetList().GetItems()
	switch {
	case kind == pg_query.A_Expr_Kind_AEXPR_OP_ANY || kind == pg_query.A_Expr_Kind_AEXPR_OP_ALL:
		w.add(map[bool]string{true: "ANY (", false: "ALL ("}[kind == pg_query.A_Expr_Kind_AEXPR_OP_ANY])
		w.write(e.GetRexpr())
		w.add(")")
	case kind == pg_query.A_Expr_Kind_AEXPR_IN:
		w.list("(", right, ")")
	case len(right) == 2: // BETWEEN
		w.write(right[0])
		w.add(" AND ")
		w.write(right[1])
	case kind == pg_query.A_Expr_Kind_AEXPR_OP || infix[kind] != nil && right == nil:
		w.write(e.GetRexpr())
	default:
		w.failed = true
	}
	w.add(")")
}

// operatorName spells an operator: as it was, if it had no schema.
func operatorName(names []*pg_query.Node) string {
	if len(names) == 1 {
		return lastString(names)
	}
	var b strings.Builder
	for _, n := range names[:len(names)-1] {
		b.WriteString(quote(n.GetString_().GetSval()) + ".")
	}
	return "OPERATOR(" + b.String() + lastString(names) + ")"
}

func (w *writer) typeName(t *pg_query.TypeName) {
	if len(t.GetTypmods()) > 0 || t.GetSetof() || t.GetPctType() || len(t.GetNames()) == 0 {
		w.failed = true
		return
	}
	for i, n := range t.GetNames() {
		if i > 0 {
			w.add(".")
		}
		w.add(quote(n.GetString_().GetSval()))
	}
	for range t.GetArrayBounds() {
		w.add("[]")
	}
}

// steady are functions of PostgreSQL's that give the same within a transaction, and fail on few values.
var steady = []string{"lower", "upper", "length", "char_length", "abs", "date_trunc", "date_part", "now", "left", "right", "btrim"}

func (w *writer) call(f *pg_query.FuncCall) {
	name := lastString(f.GetFuncname())
	if !slices.Contains(steady, name) || len(f.GetFuncname()) != 1 || f.GetOver() != nil || f.GetAggFilter() != nil || len(f.GetAggOrder()) > 0 ||
		f.GetAggDistinct() || f.GetAggStar() || f.GetFuncVariadic() || f.GetAggWithinGroup() {
		w.failed = true
		return
	}
	w.add(quote(name))
	w.list("(", f.GetArgs(), ")")
}
