package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
	"github.com/scrimdb/scrim/rewrite"
)

// explainMasking makes the statement that answers EXPLAIN MASKING: the query is planned as it would be for the role, and not run.
// Names mean what they mean to who asks. Nothing of it is kept.
func (f *frontend) explainMasking(ctx context.Context, c rewrite.ExplainMasking, text string, ownTx bool) ([]*statement, error) {
	if err := f.flush(); err != nil {
		return nil, err
	}
	st := &statement{Statement: rewrite.Statement{Text: text}, explains: true}
	e := rewrite.Explanation{}
	if f.s.txStatus() != 'E' || !f.s.queue.idle() { // else the server refuses whatever it is sent
		role, err := f.seenBy(ctx, c.Role, ownTx)
		if err != nil {
			return nil, err
		}
		e, err = f.explanation(ctx, c, text, role, ownTx)
		if errors.Is(err, rewrite.ErrOutdated) {
			if err := f.s.srv.catalog.Replace(ctx, f.s.srv.catalog.Snapshot()); err != nil {
				return nil, err
			}
			e, err = f.explanation(ctx, c, text, role, ownTx)
		}
		if err != nil {
			return nil, err
		}
	}
	answer, err := c.Answer(e)
	st.command = answer
	return []*statement{st}, err
}

// seenBy is the role whose masks are asked for. What another role sees is for its members and for admins to know.
func (f *frontend) seenBy(ctx context.Context, role string, ownTx bool) (string, error) {
	if role == "" {
		return f.s.role, nil
	}
	found, allowed := "", false
	err := f.s.ask(ctx, ownTx, `SELECT r.rolname::pg_catalog.text, pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER') OR pg_catalog.pg_has_role(session_user, 'scrim_admin', 'USAGE')
		FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.text::pg_catalog.name`, []string{role}, func(cells []cell) error {
		found, allowed = string(cells[0]), string(cells[1]) == "\x01"
		return nil
	})
	switch {
	case err != nil:
		return "", err
	case found == "":
		return "", &Error{Code: codeUndefinedObject, Message: fmt.Sprintf("role %q does not exist", role)}
	case !allowed:
		return "", &Error{
			Code: codeInsufficientPrivilege, Message: fmt.Sprintf("permission denied to explain masking for role %q", role),
			Hint: "Members of the role and of scrim_admin may. Without FOR ROLE it is your own masking.",
		}
	}
	return found, nil
}

// explanation plans the query for a role.
func (f *frontend) explanation(ctx context.Context, c rewrite.ExplainMasking, text, role string, ownTx bool) (rewrite.Explanation, error) {
	if !f.s.srv.catalog.Fresh() {
		return rewrite.Explanation{}, errNotFresh
	}
	by, err := f.s.srv.viewer(ctx, role)
	if err != nil {
		f.s.log.WarnContext(ctx, "masks of a role cannot be read", "error", err)
		return rewrite.Explanation{}, errNotFresh
	}
	var plan *rewrite.Plan
	var resolved map[rewrite.Name]rewrite.Relation
	in, err := rewrite.Inspect(c.Query, func(n rewrite.Name) bool { return f.s.planner.namedIn(by.Snapshot, n) })
	if err == nil && len(in.Names) > 0 {
		if resolved, err = f.resolveAll(ctx, in.Names, ownTx); err != nil {
			return rewrite.Explanation{}, err
		}
		var plans []*rewrite.Plan
		if plans, err = in.Plan(resolved, by.Masks); errors.Is(err, rewrite.ErrOutdated) {
			return rewrite.Explanation{}, err
		}
		if len(plans) > 0 && plans[0] != nil {
			plan = plans[0]
			err = f.denied(ctx, role, plan, ownTx)
		}
	}
	var refused *rewrite.Refusal
	if err != nil && !errors.As(err, &refused) {
		return rewrite.Explanation{}, err
	}
	return c.Explain(text, by, resolved, plan, refused), nil
}

// viewer looks up what a role sees.
func (srv *Server) viewer(ctx context.Context, role string) (rewrite.Viewer, error) {
	ctx, cancel := context.WithTimeout(ctx, catalogPatience)
	defer cancel()
	v := rewrite.Viewer{Role: role, Snapshot: srv.catalog.Snapshot()}
	readable, err := srv.catalog.Readable(ctx, role)
	if err == nil {
		v.Exempt, err = srv.catalog.Exempt(ctx, role)
	}
	v.Masks = policy.For(v.Snapshot, readable)
	return v, err
}

// denied is the server's refusal of a role that may not even read what the policy leaves open. (A feature view's is everybody's to
// read, and asks for rights when it runs.)
func (f *frontend) denied(ctx context.Context, role string, plan *rewrite.Plan, ownTx bool) error {
	var views []string
	for _, m := range plan.Mentions {
		if message := closed(m); message != "" && plan.Views[m.Mask.Protection.View.OID] != nil {
			return &rewrite.Refusal{Code: codeInsufficientPrivilege, Offset: -1, Message: message}
		}
	}
	protections, mixed := map[string]*catalog.Protection{}, []string(nil)
	for oid, p := range plan.Views {
		views = append(views, fmt.Sprint(oid))
		protections[fmt.Sprint(oid)] = p
	}
	for _, m := range plan.Mentions {
		if m.Mask.Mixed {
			mixed = append(mixed, fmt.Sprint(m.Mask.Protection.View.OID))
		}
	}
	slices.Sort(views)
	denied := ""
	err := f.s.ask(ctx, ownTx, `SELECT v.oid::pg_catalog.text FROM pg_catalog.unnest($2::pg_catalog.oid[]) AS v(oid)
		WHERE NOT CASE WHEN v.oid OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.oid[])
			THEN pg_catalog.has_any_column_privilege($1::pg_catalog.text::pg_catalog.name, v.oid, 'SELECT')
			ELSE pg_catalog.has_table_privilege($1::pg_catalog.text::pg_catalog.name, v.oid, 'SELECT') END`,
		[]string{role, "{" + strings.Join(views, ",") + "}", "{" + strings.Join(mixed, ",") + "}"}, func(cells []cell) error {
			denied = string(cells[0])
			return nil
		})
	if err != nil || denied == "" {
		return err
	}
	return &rewrite.Refusal{Code: codeInsufficientPrivilege, Offset: -1, Message: deniedOn(protections[denied])}
}

// closed says, in the words of scrim_runtime.masks_closed, why what a mention reads is closed; empty if it is not.
func closed(m rewrite.Mention) string {
	of := m.Mask.Protection
	for _, p := range of.Policies {
		reads := of.FeatureView || slices.ContainsFunc(m.Columns, func(num int16) bool { return slices.Contains(p.Masked, num) })
		switch {
		case p.Closed == "suspended": // all policies are
			return fmt.Sprintf("masked columns of %s.%s cannot be read while they are suspended", of.Relation.Schema, of.Relation.Name)
		case p.Closed == "disabled" && reads:
			return fmt.Sprintf("masking policy %q on %s.%s is disabled", p.Name, of.Relation.Schema, of.Relation.Name)
		}
	}
	return ""
}

// stillExplains refuses to give an answer again that was made when the statement was prepared and would be another now.
func (f *frontend) stillExplains(ctx context.Context, st *statement) error {
	now, err := f.plan(ctx, st.Text, false)
	if err != nil {
		return err
	}
	if len(now) != 1 || queryOf(now[0].command) != queryOf(st.command) {
		return errOutdatedPlan
	}
	return nil
}
