package data

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/store"
)

const (
	maxMany = 32 << 20 // bytes of a call with many documents
	purpose = "Secret fields come back as `<redacted>`; on a write, a secret field that is absent or `<redacted>` keeps what is stored, and `null` clears it. "
)

var example = json.RawMessage(`{"id":"github-key","type":"sshPrivateKey","scope":"GLOBAL","description":"GitHub checkout key","username":"john.doe","privateKey":"<redacted>","passphrase":"<redacted>"}`)

var operations = []blueprint.Operation{
	blueprint.Handle((*service).kinds, blueprint.Operation{
		ID: "data.kinds", Method: "GET", Path: "/data", Permission: use, Summary: "List the kinds of documents",
		ResponseExample: []kindInfo{{Kind: "credentials", Text: "What Slipway shows to others to be let in", Types: []typeInfo{{"secretText", "A token", 1}}}},
	}),
	blueprint.Handle((*service).applyMany, blueprint.Operation{
		ID: "data.apply", RequestExample: map[string]any{"version": 1, "kind": "credentials", "data": []any{map[string]any{"id": "github-key", "type": "secretText", "scope": "GLOBAL", "description": "GitHub token", "secret": "…"}}}, Method: "POST", Path: "/data", Permission: use, Summary: "Apply many documents",
		Description: "Takes an envelope `{\"version\":1,\"kind\":…,\"data\":[…]}`, an array of envelopes or documents, or one of these a line. Each is created or replaced. All or nothing: " +
			"with a fault anywhere nothing is changed, and all faults are listed. At most 50,000 documents: 413. With `prune=key=value`, documents with that label that are not in the call are deleted. " + purpose,
		MaxBody: maxMany, Timeout: 2 * time.Minute, Idempotent: true, Errors: []slipway.Code{slipway.Conflict, slipway.TooLarge},
		ResponseExample: applied{Created: 1, Documents: []appliedOne{{Kind: "credentials", ID: "github-key", Action: resource.Created}}},
	}),
	blueprint.Handle((*service).schema, blueprint.Operation{
		ID: "data.schema", Method: "GET", Path: "/data/schema/{kind}", Permission: use, Summary: "The JSON Schema of a kind", Errors: []slipway.Code{slipway.NotFound},
		ResponseExample: json.RawMessage(`{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"credentials"}`),
	}),
	blueprint.Handle((*service).audit, blueprint.Operation{
		ID: "data.audit", Method: "GET", Path: "/data/audit", Permission: readAudit, Summary: "Who changed what",
		Description:     "Lists changes of documents, newest first, each with the document before and after it, without secrets. Kept for `retention.audit`.",
		ResponseExample: blueprint.List[resource.Record]{Items: []resource.Record{{ID: 7, Caller: "user:default/jane", Action: "create", Kind: "credentials", Object: "github-key", After: example}}, PageInfo: slipway.PageInfo{Limit: 20}},
	}),
	blueprint.Handle((*service).startRekey, blueprint.Operation{
		ID: "data.startRekey", Method: "POST", Path: "/data/rekey", Permission: rekeyAll, Status: http.StatusAccepted, Summary: "Seal all secrets with a new key",
		Description: "Puts a new key in front of the others in the key file, unless `rotate=false`, and has a job seal every secret with it, while reads and writes go on. " +
			"Old keys stay in the file until the operator deletes them.",
		Errors: []slipway.Code{slipway.Conflict}, ResponseExample: rekeying{KeyID: "1f00ba44"},
	}),
	blueprint.Handle((*service).runs, blueprint.Operation{
		ID: "data.runs", Method: "GET", Path: "/data/job/{name}/runs", Wide: "name", Segments: 16, Permission: use, Summary: "List the runs of a job", Errors: []slipway.Code{slipway.NotFound},
		Description: "Newest first. A name with slashes may stand as it is, or encoded. A job that is not known, or that the caller may not see, has no runs. " +
			"With a filter, a page may hold fewer runs than `limit`, even none, and still have more behind it: `pageInfo.hasMore` says so.",
		ResponseExample: blueprint.List[blueprint.Raw[document]]{
			Items: []blueprint.Raw[document]{shown(json.RawMessage(`{"id":"ci:0198c2f0","job":"octo/hello","status":"succeeded"}`))}, PageInfo: slipway.PageInfo{Limit: 20},
		},
	}),
	blueprint.Handle((*service).list, blueprint.Operation{
		ID: "data.list", Method: "GET", Path: "/data/{kind}", Permission: use, Summary: "List documents of a kind", Errors: []slipway.Code{slipway.NotFound},
		Description:     "In the order of ids. `filter=key=value` may be repeated, and all must hold; keys are fields, also `labels.team`. With a filter, a page may hold fewer documents than `limit`, even none, and still have more behind it: `pageInfo.hasMore` says so. Secret fields come back as `<redacted>`.",
		ResponseExample: blueprint.List[blueprint.Raw[document]]{Items: []blueprint.Raw[document]{shown(example)}, PageInfo: slipway.PageInfo{Limit: 20}},
	}),
	blueprint.Handle((*service).create, blueprint.Operation{
		ID: "data.create", RequestExample: map[string]any{"id": "github-key", "type": "secretText", "scope": "GLOBAL", "description": "GitHub token", "secret": "…"}, Method: "POST", Path: "/data/{kind}", Permission: use, Status: http.StatusCreated, Summary: "Create a document", Idempotent: true,
		Description: "Takes the document, bare or in an envelope. Without an id, one is made. " + purpose, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict},
		MaxBody: 2 << 20, ResponseExample: example,
	}),
	blueprint.Handle((*service).get, blueprint.Operation{
		ID: "data.get", Method: "GET", Path: "/data/{kind}/{id}", Permission: use, Summary: "Get a document", Errors: []slipway.Code{slipway.NotFound},
		ResponseExample: example,
	}),
	blueprint.Handle((*service).put, blueprint.Operation{
		ID: "data.put", RequestExample: map[string]any{"id": "github-key", "type": "secretText", "scope": "GLOBAL", "description": "GitHub token", "secret": "…"}, Method: "PUT", Path: "/data/{kind}/{id}", Permission: use, Summary: "Create or replace a document",
		Description: purpose, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict, slipway.Precondition}, MaxBody: 2 << 20, ResponseExample: example,
	}),
	blueprint.Handle((*service).patch, blueprint.Operation{
		ID: "data.patch", RequestExample: map[string]any{"description": "GitHub token of the shop"}, Method: "PATCH", Path: "/data/{kind}/{id}", Permission: use, Summary: "Change a document",
		Description: "JSON Merge Patch (RFC 7396): what is given replaces, `null` takes a field away. " + purpose,
		Errors:      []slipway.Code{slipway.NotFound, slipway.Conflict, slipway.Precondition}, MaxBody: 2 << 20, ResponseExample: example,
	}),
	blueprint.Handle((*service).remove, blueprint.Operation{
		ID: "data.delete", Method: "DELETE", Path: "/data/{kind}/{id}", Permission: use, Summary: "Delete a document",
		Description: "409 while another document names it; the answer says which.", Errors: []slipway.Code{slipway.NotFound, slipway.Conflict, slipway.Precondition},
	}),
}

// body is an answer with nothing but a body.
type body[T any] struct{ Body T }

// one is an answer with one document.
type one struct {
	Status   int
	ETag     string `header:"ETag" doc:"Version of the document, for If-Match"`
	Location string `header:"Location" doc:"Where it is, when it was created"`
	Body     blueprint.Raw[document]
}

// document is what all documents have; the rest is their type's, and stands in the schema of their kind.
type document struct {
	_           struct{}          `additionalProperties:"true"`
	ID          string            `json:"id" doc:"Id, unique in its kind" example:"github-key"`
	Type        string            `json:"type,omitempty" doc:"Symbol of its type, where the kind has several" example:"sshPrivateKey"`
	TypeVersion int               `json:"typeVersion,omitempty" doc:"Version of the type, from 2 on"`
	Labels      map[string]string `json:"labels,omitempty" doc:"Labels of the caller's own"`
}

// schemaDocument is a JSON Schema.
type schemaDocument struct {
	_      struct{} `additionalProperties:"true"`
	Schema string   `json:"$schema" doc:"Draft of JSON Schema"`
}

func shown(raw json.RawMessage) blueprint.Raw[document] { return blueprint.Raw[document]{JSON: raw} }

// typeInfo and kindInfo tell of a kind.
type typeInfo struct {
	Symbol  string `json:"type" doc:"Symbol, as documents name it; empty where documents have no type"`
	Text    string `json:"text" doc:"What it is"`
	Version int    `json:"typeVersion" doc:"Version of its documents"`
}

type kindInfo struct {
	Kind        string               `json:"kind" doc:"Kind, as in paths"`
	Text        string               `json:"text" doc:"What its documents are"`
	Types       []typeInfo           `json:"types" doc:"Types of documents"`
	ReadOnly    []string             `json:"readOnly,omitempty" doc:"Fields that are shown, and of no effect on a write"`
	Local       bool                 `json:"local,omitempty" doc:"The documents mean something only here, and an export of everything leaves them out"`
	Permissions resource.Permissions `json:"permissions" doc:"What it takes, by verb; a verb without one is not offered"`
}

func (s *service) kinds(context.Context, *struct{}) (*body[[]kindInfo], error) {
	out := &body[[]kindInfo]{[]kindInfo{}}
	for _, k := range s.documents.Kinds() {
		info := kindInfo{Kind: k.Name, Text: k.Text, Types: []typeInfo{}, ReadOnly: k.ReadOnly(), Local: k.Local, Permissions: k.Permissions}
		for _, t := range k.Types {
			info.Types = append(info.Types, typeInfo{t.Symbol, t.Text, t.Version})
		}
		out.Body = append(out.Body, info)
	}
	return out, nil
}

func (s *service) schema(_ context.Context, in *struct {
	Kind string `path:"kind" doc:"Kind" example:"credentials"`
}) (*body[blueprint.Raw[schemaDocument]], error) {
	k, err := s.documents.Kind(in.Kind)
	if err != nil {
		return nil, err
	}
	return &body[blueprint.Raw[schemaDocument]]{blueprint.Raw[schemaDocument]{JSON: k.Schema()}}, nil
}

func (s *service) list(ctx context.Context, in *struct {
	Kind   string   `path:"kind" doc:"Kind" example:"credentials"`
	Filter []string `query:"filter,explode" doc:"key=value; may be repeated" example:"type=secretText"`
	Fields []string `query:"fields" doc:"Only these fields, beside id and type, with commas between them"`
	Cursor string   `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
	Limit  int      `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many"`
}) (*body[blueprint.List[blueprint.Raw[document]]], error) {
	return s.page(ctx, resource.Query{Kind: in.Kind, Filter: in.Filter, Fields: in.Fields, Cursor: in.Cursor, Limit: in.Limit})
}

func (s *service) runs(ctx context.Context, in *struct {
	Name   string   `path:"name" doc:"Name of the job" example:"octo/hello"`
	Filter []string `query:"filter,explode" doc:"key=value; may be repeated" example:"status=failed"`
	Fields []string `query:"fields" doc:"Only these fields, beside id and type, with commas between them"`
	Cursor string   `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
	Limit  int      `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many"`
}) (*body[blueprint.List[blueprint.Raw[document]]], error) {
	return s.page(ctx, resource.Query{Kind: "runs", Parent: in.Name, Filter: in.Filter, Fields: in.Fields, Cursor: in.Cursor, Limit: in.Limit})
}

func (s *service) page(ctx context.Context, q resource.Query) (*body[blueprint.List[blueprint.Raw[document]]], error) {
	page, err := s.documents.List(ctx, q)
	if err != nil {
		return nil, err
	}
	out := blueprint.List[blueprint.Raw[document]]{Items: []blueprint.Raw[document]{}, PageInfo: slipway.PageInfo{Limit: q.Limit, NextCursor: page.Next, HasMore: page.Next != ""}}
	for _, d := range page.Documents {
		out.Items = append(out.Items, shown(d.JSON))
	}
	return &body[blueprint.List[blueprint.Raw[document]]]{out}, nil
}

func (s *service) get(ctx context.Context, in *struct {
	Kind string `path:"kind" doc:"Kind" example:"credentials"`
	ID   string `path:"id" doc:"Id" example:"github-key"`
}) (*one, error) {
	d, err := s.documents.Get(ctx, in.Kind, in.ID)
	if err != nil {
		return nil, err
	}
	return &one{Status: http.StatusOK, ETag: d.Tag(), Body: shown(d.JSON)}, nil
}

// write is the input of what changes one document.
type write struct {
	Kind    string `path:"kind" doc:"Kind" example:"credentials"`
	DryRun  bool   `query:"dryRun" doc:"Only check, and show what would be"`
	RawBody []byte `doc:"The document, bare or in an envelope"`
}

// writeAt is write with an id.
type writeAt struct {
	Kind    string `path:"kind" doc:"Kind" example:"credentials"`
	ID      string `path:"id" doc:"Id" example:"github-key"`
	DryRun  bool   `query:"dryRun" doc:"Only check, and show what would be"`
	RawBody []byte `doc:"The document, bare or in an envelope"`
	IfMatch string `header:"If-Match" doc:"ETag that the document must still have"`
}

// apply makes one change.
func (s *service) apply(ctx context.Context, kind, id string, raw []byte, verb resource.Verb, ifMatch string, dryRun bool) (resource.Result, error) {
	c := resource.Change{Input: resource.Input{Kind: kind}, ID: id, Verb: verb, IfMatch: ifMatch}
	if verb != resource.Delete {
		inputs, err := resource.Read(raw)
		if err != nil {
			return resource.Result{}, err
		}
		if len(inputs) != 1 {
			return resource.Result{}, slipway.Errorf(slipway.Invalid, "one document is taken here, not %d; POST /data takes many", len(inputs)).WithDetails(fault("/data", "must be one document"))
		}
		in := inputs[0]
		if in.Kind != "" && in.Kind != kind {
			return resource.Result{}, slipway.Errorf(slipway.Invalid, "the document says kind %q, and the path %q", in.Kind, kind).WithDetails(fault("/kind", "must be "+strconv.Quote(kind)))
		}
		c.Input, c.Kind = in, kind
	}
	if _, err := s.documents.Kind(kind); err != nil {
		return resource.Result{}, err
	}
	results, err := s.documents.Apply(ctx, []resource.Change{c}, resource.Options{DryRun: dryRun, RequestID: blueprint.RequestID(ctx)})
	if err != nil {
		return resource.Result{}, err
	}
	return results[0], nil
}

// answer shows what came of a change.
func answer(ctx context.Context, r resource.Result, dryRun bool) *one {
	out := &one{Status: http.StatusOK, ETag: r.Tag(), Body: shown(r.Answer())}
	tell(ctx, r)
	if r.Action == resource.Created && !dryRun {
		out.Status, out.Location = http.StatusCreated, "/data/"+r.Kind+"/"+r.ID
	}
	return out
}

// tell passes the warnings on, and keeps an answer with a secret from being stored.
func tell(ctx context.Context, r resource.Result) {
	for _, text := range r.Warnings {
		blueprint.Warn(ctx, r.Ref().String()+": "+text)
	}
	if r.Told != "" {
		blueprint.Private(ctx)
	}
}

func (s *service) create(ctx context.Context, in *write) (*one, error) {
	r, err := s.apply(ctx, in.Kind, "", in.RawBody, resource.Create, "", in.DryRun)
	if err != nil {
		return nil, err
	}
	return answer(ctx, r, in.DryRun), nil
}

func (s *service) put(ctx context.Context, in *writeAt) (*one, error) {
	r, err := s.apply(ctx, in.Kind, in.ID, in.RawBody, resource.Put, in.IfMatch, in.DryRun)
	if err != nil {
		return nil, err
	}
	return answer(ctx, r, in.DryRun), nil
}

func (s *service) patch(ctx context.Context, in *writeAt) (*one, error) {
	r, err := s.apply(ctx, in.Kind, in.ID, in.RawBody, resource.Patch, in.IfMatch, in.DryRun)
	if err != nil {
		return nil, err
	}
	return answer(ctx, r, in.DryRun), nil
}

func (s *service) remove(ctx context.Context, in *struct {
	Kind    string `path:"kind" doc:"Kind" example:"credentials"`
	ID      string `path:"id" doc:"Id" example:"github-key"`
	DryRun  bool   `query:"dryRun" doc:"Only check"`
	IfMatch string `header:"If-Match" doc:"ETag that the document must still have"`
}) (*struct{}, error) {
	_, err := s.apply(ctx, in.Kind, in.ID, nil, resource.Delete, in.IfMatch, in.DryRun)
	return nil, err
}

// applied is what came of many documents.
type applied struct {
	DryRun    bool         `json:"dryRun,omitempty" doc:"Nothing was changed"`
	Created   int          `json:"created" doc:"How many were created"`
	Updated   int          `json:"updated" doc:"How many were replaced by something else"`
	Unchanged int          `json:"unchanged" doc:"How many are as they were"`
	Deleted   int          `json:"deleted" doc:"How many were pruned"`
	Documents []appliedOne `json:"documents" doc:"Each, in the order of the call, the pruned ones last"`
}

type appliedOne struct {
	Kind   string          `json:"kind" doc:"Kind"`
	ID     string          `json:"id" doc:"Id"`
	Action resource.Action `json:"action" enum:"created,updated,unchanged,deleted" doc:"What came of it"`
	Before json.RawMessage `json:"before,omitempty" doc:"With dryRun: the document as it is"`
	After  json.RawMessage `json:"after,omitempty" doc:"With dryRun: the document as it would be"`
	Secret string          `json:"secret,omitempty" doc:"A secret that was made with it and is told only this once, such as that of a token"`
}

func (s *service) applyMany(ctx context.Context, in *struct {
	DryRun  bool   `query:"dryRun" doc:"Only check, and show what would be"`
	Prune   string `query:"prune" doc:"Label key=value: documents that carry it and are not in the call are deleted" example:"team=web"`
	RawBody []byte `doc:"Documents"`
}) (*body[applied], error) {
	inputs, err := resource.Read(in.RawBody)
	if err != nil {
		return nil, err
	}
	results, err := s.documents.Apply(ctx, puts(inputs), resource.Options{DryRun: in.DryRun, Prune: in.Prune, RequestID: blueprint.RequestID(ctx)})
	if err != nil {
		return nil, err
	}
	out := applied{DryRun: in.DryRun, Documents: make([]appliedOne, 0, len(results))}
	for _, r := range results {
		switch r.Action {
		case resource.Created:
			out.Created++
		case resource.Updated:
			out.Updated++
		case resource.Unchanged:
			out.Unchanged++
		case resource.Deleted:
			out.Deleted++
		}
		d := appliedOne{Kind: r.Kind, ID: r.ID, Action: r.Action, Secret: r.Told}
		tell(ctx, r)
		if in.DryRun && r.Action != resource.Unchanged {
			d.Before = r.Before
			if r.Action != resource.Deleted {
				d.After = r.JSON
			}
		}
		out.Documents = append(out.Documents, d)
	}
	return &body[applied]{out}, nil
}

// puts makes of each input a document to be created or replaced.
func puts(inputs []resource.Input) []resource.Change {
	changes := make([]resource.Change, len(inputs))
	for i, in := range inputs {
		changes[i] = resource.Change{Input: in, Verb: resource.Put}
	}
	return changes
}

func (s *service) audit(ctx context.Context, in *struct {
	Kind   string `query:"kind" doc:"Only this kind"`
	ID     string `query:"id" doc:"Only this document; needs kind"`
	Cursor string `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many"`
}) (*body[blueprint.List[resource.Record]], error) {
	if in.ID != "" && in.Kind == "" {
		return nil, slipway.Errorf(slipway.Invalid, "an id needs its kind beside it").WithDetails(fault("kind", "is missing"))
	}
	if strings.ContainsRune(in.Kind+in.ID, 0) { // PostgreSQL would refuse to look for it
		return nil, slipway.Errorf(slipway.Invalid, "no kind and no id holds such a character")
	}
	all, next, err := s.documents.History(ctx, resource.HistoryQuery{Kind: in.Kind, ID: in.ID, Cursor: in.Cursor, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	page := slipway.PageInfo{Limit: in.Limit, NextCursor: next, HasMore: next != ""}
	return &body[blueprint.List[resource.Record]]{blueprint.List[resource.Record]{Items: all, PageInfo: page}}, nil
}

// rekeying is the answer of startRekey.
type rekeying struct {
	KeyID string `json:"keyId" doc:"Id of the key that secrets are sealed with from now on"`
}

func (s *service) startRekey(ctx context.Context, in *struct {
	Rotate string `query:"rotate" enum:"true,false" default:"true" doc:"false: the operator has put a new key into the file already"`
}) (*struct {
	Location string `header:"Location" doc:"The job"`
	Body     rekeying
}, error) {
	rotate := s.Keys.Reload
	if in.Rotate == "true" {
		rotate = s.Keys.Rotate
	}
	if err := rotate(); err != nil {
		return nil, err
	}
	out := &struct {
		Location string `header:"Location" doc:"The job"`
		Body     rekeying
	}{Body: rekeying{s.Keys.KeyIDs()[0]}}
	return out, s.DB("main").Write(ctx, func(tx *store.Tx) error {
		if err := s.Revisions.Bump(ctx, tx, keysRevision); err != nil {
			return err
		}
		id, _, err := s.Jobs.Insert(ctx, tx, rekeyArgs{}, job.Insert{Unique: "all"})
		if err != nil {
			return err
		}
		out.Location = "/api/jobs/" + strconv.FormatInt(id, 10)
		return s.Auth.Audit(ctx, tx, auth.CallerFrom(ctx), "data.rekey", out.Body.KeyID)
	})
}
