package jenkinstest

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// request is one request on its way through the server.
type request struct {
	j     *Jenkins
	w     http.ResponseWriter
	r     *http.Request
	user  string // "" for nobody
	token bool   // shown to be the user by an API token
}

// ServeHTTP answers as Jenkins does.
func (j *Jenkins) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	j.mu.Lock()
	defer j.mu.Unlock()
	w.Header().Set("X-Jenkins", "2.516.3")
	w.Header().Set("X-Jenkins-Session", "5c7e1f07")
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), j.Prefix)
	if !ok {
		http.Error(w, "a proxy does not know this", http.StatusBadGateway)
		return
	}
	asked := r.Method + " " + path
	if r.URL.RawQuery != "" {
		asked += "?" + r.URL.RawQuery
	}
	j.asked = append(j.asked, asked)
	q := &request{j: j, w: w, r: r}
	if !q.signIn() {
		q.page(http.StatusUnauthorized, "Invalid password/token for user")
		return
	}
	if r.Method == http.MethodPost && !q.token && !j.NoCrumb && !q.crumbed() {
		q.page(http.StatusForbidden, "No valid crumb was included in the request")
		return
	}
	var parts []string
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		name, err := url.PathUnescape(part)
		if err != nil {
			q.page(http.StatusBadRequest, "bad path")
			return
		}
		parts = append(parts, name)
	}
	q.route(parts)
}

func (q *request) signIn() bool {
	name, password, ok := q.r.BasicAuth()
	if !ok {
		if cookie, err := q.r.Cookie("JSESSIONID"); err == nil {
			q.user = q.j.sessions[cookie.Value]
		}
		return true
	}
	u, known := q.j.Users[name]
	q.user, q.token = name, password == u.Token && u.Token != ""
	return known && (q.token || password == u.Password && u.Password != "")
}

func crumbOf(session string) string { return "crumb-of-" + session }

func (q *request) crumbed() bool {
	cookie, err := q.r.Cookie("JSESSIONID")
	if err != nil {
		return false
	}
	_, alive := q.j.sessions[cookie.Value]
	return alive && q.r.Header.Get("Jenkins-Crumb") == crumbOf(cookie.Value)
}

// page is an answer for people, as Jenkins gives to programs too.
func (q *request) page(status int, text string) {
	q.w.Header().Set("Content-Type", "text/html;charset=utf-8")
	q.w.WriteHeader(status)
	fmt.Fprintf(q.w, "<html><head data-crumb-header=\"Jenkins-Crumb\" data-rooturl=\"\"><title>Error %d</title></head><body><h2>HTTP ERROR %d %s</h2></body></html>\n", status, status, html.EscapeString(text))
}

// denied is what somebody gets who lacks a permission: who is nobody is led to sign in.
func (q *request) denied(permission string) {
	h := q.w.Header()
	h.Set("X-You-Are-Authenticated-As", q.user)
	h.Set("X-Required-Permission", permission)
	if q.user == "" {
		h.Set("X-You-Are-Authenticated-As", "anonymous")
		h.Set("Content-Type", "text/html;charset=utf-8")
		q.w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(q.w, `<html><head><meta http-equiv='refresh' content='1;url=/login?from=%2F'/></head><body>Authentication required<!--
-->
</body></html>`)
		return
	}
	q.page(http.StatusForbidden, q.user+" is missing the permission "+permission)
}

func (q *request) failure(text string) {
	q.w.Header().Set("X-Error", text)
	q.page(http.StatusBadRequest, text)
}

func (q *request) redirect(status int, to string) {
	q.w.Header().Set("Location", strings.TrimSuffix(q.j.Root, "/")+q.j.Prefix+to)
	q.w.WriteHeader(status)
}

func (q *request) api(n *node) {
	depth := 0
	var t *tree
	query := q.r.URL.Query()
	if d, err := strconv.Atoi(query.Get("depth")); err == nil {
		depth = d
	}
	if s := query.Get("tree"); s != "" {
		var err error
		if t, err = parseTree(s); err != nil {
			q.page(http.StatusBadRequest, err.Error())
			return
		}
	}
	q.w.Header().Set("Content-Type", "application/json;charset=utf-8")
	if q.r.Method != http.MethodHead {
		_ = json.NewEncoder(q.w).Encode(export(n, t, depth))
	}
}

func (q *request) mayRead() bool { return q.user != "" || q.j.Open }

func (q *request) mayBuild() bool { return q.user != "" && !q.j.Users[q.user].ReadOnly }

func (q *request) route(parts []string) {
	rest := strings.Join(parts, "/")
	switch {
	case rest == "whoAmI/api/json":
		q.api(&node{"hudson.security.WhoAmI", []prop{
			{"anonymous", is(q.user == ""), plain}, {"authenticated", is(q.user != ""), plain},
			{"authorities", is([]string{"authenticated"}), plain}, {"name", is(orElse(q.user, "anonymous")), plain},
		}})
	case rest == "crumbIssuer/api/json":
		q.crumb()
	case rest == "login":
		q.page(http.StatusOK, `Sign in to Jenkins <form action="j_spring_security_check">`)
	case !q.mayRead():
		q.denied("hudson.model.Hudson.Read")
	case rest == "api/json":
		q.api(q.j.root(q))
	case parts[0] == "queue":
		q.serveQueue(parts[1:])
	case parts[0] == "job":
		q.serveItem(q.j.top, parts)
	default:
		q.page(http.StatusNotFound, "Not Found")
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (q *request) crumb() {
	if q.j.NoCrumb {
		q.page(http.StatusNotFound, "Not Found")
		return
	}
	session := ""
	if cookie, err := q.r.Cookie("JSESSIONID"); err == nil {
		session = cookie.Value
	}
	if _, alive := q.j.sessions[session]; !alive {
		session = fmt.Sprintf("node0%d", len(q.j.sessions)+1)
		q.j.sessions[session] = q.user
		http.SetCookie(q.w, &http.Cookie{Name: "JSESSIONID", Value: session, Path: q.j.Prefix + "/", HttpOnly: true})
	}
	q.api(&node{"hudson.security.csrf.DefaultCrumbIssuer", []prop{
		{"crumb", is(crumbOf(session)), plain}, {"crumbRequestField", is("Jenkins-Crumb"), plain},
	}})
}

// EndSessions ends all sessions, as a restart does.
func (j *Jenkins) EndSessions() { j.Do(func() { clear(j.sessions) }) }

func (q *request) serveQueue(parts []string) {
	switch {
	case strings.Join(parts, "/") == "api/json":
		q.api(&node{"hudson.model.Queue", []prop{{"items", func() any {
			var list []*node
			for _, w := range q.j.queue {
				if w.waits() {
					list = append(list, q.j.queued(w))
				}
			}
			return list
		}, inline}}})
	case len(parts) == 4 && parts[0] == "item" && parts[2] == "api":
		id, _ := strconv.ParseInt(parts[1], 10, 64)
		if w := q.j.inQueue(id); w != nil && !q.j.Users[q.user].Blind {
			q.j.advance(w)
			q.api(q.j.queued(w))
			return
		}
		q.page(http.StatusNotFound, "Not Found")
	case len(parts) == 3 && parts[0] == "item" && parts[2] == "cancelQueue":
		q.cancel(parts[1])
	case len(parts) == 1 && parts[0] == "cancelItem":
		q.cancel(q.r.FormValue("id"))
	default:
		q.page(http.StatusNotFound, "Not Found")
	}
}

func (q *request) cancel(number string) {
	id, _ := strconv.ParseInt(number, 10, 64)
	w := q.j.inQueue(id)
	switch {
	case q.r.Method != http.MethodPost:
		q.page(http.StatusMethodNotAllowed, "This URL requires POST")
	case w == nil || !w.waits():
		q.page(http.StatusNotFound, fmt.Sprintf("Provided id (%d) not found", id))
	case !q.mayBuild():
		q.page(http.StatusUnprocessableEntity, fmt.Sprintf("Item for id (%d) is not cancellable", id))
	default:
		w.canceled, w.left = true, q.j.Now()
		q.w.WriteHeader(http.StatusNoContent)
	}
}

// serveItem walks down "job/name/job/name/…".
func (q *request) serveItem(at *Item, parts []string) {
	for len(parts) >= 2 && parts[0] == "job" {
		if at = at.find(parts[1]); at == nil || q.j.Users[q.user].Blind {
			q.page(http.StatusNotFound, "Not Found")
			return
		}
		parts = parts[2:]
	}
	what := strings.Join(parts, "/")
	if what == "api/json" {
		for _, w := range q.j.queue {
			if w.job == at {
				q.j.advance(w)
			}
		}
		q.api(q.j.itemNode(at))
		return
	}
	if at.holds() {
		q.page(http.StatusNotFound, "Not Found")
		return
	}
	if len(parts) > 0 {
		if r := at.permalink(parts[0]); r != nil {
			q.serveRun(r, parts[1:])
			return
		}
	}
	switch what {
	case "build", "buildWithParameters":
		q.build(at, what)
	case "enable", "disable":
		if q.changes("hudson.model.Item.Configure") {
			at.Disabled = what == "disable"
			q.redirect(http.StatusFound, at.path())
		}
	default:
		q.page(http.StatusNotFound, "Not Found")
	}
}

// changes says whether a request may change something, and refuses it otherwise.
func (q *request) changes(permission string) bool {
	switch {
	case q.r.Method != http.MethodPost:
		q.w.Header().Set("Allow", "POST")
		q.page(http.StatusMethodNotAllowed, "This URL requires POST")
	case !q.mayBuild():
		q.denied(permission)
	default:
		return true
	}
	return false
}

func (i *Item) path() string {
	if i.Parent == nil {
		return "/"
	}
	return strings.TrimSuffix(i.Parent.path(), "/") + "/job/" + url.PathEscape(i.Name) + "/"
}

func (i *Item) permalink(name string) *Run {
	if n, err := strconv.ParseInt(name, 10, 64); err == nil {
		return i.run(n)
	}
	for _, r := range slices.Backward(i.runs) {
		ok := map[string]bool{
			"lastBuild": true, "lastCompletedBuild": !r.building(), "lastSuccessfulBuild": r.State == Success || r.State == Unstable, "lastStableBuild": r.State == Success,
			"lastUnstableBuild": r.State == Unstable, "lastFailedBuild": r.State == Failure, "lastUnsuccessfulBuild": !r.building() && r.State != Success,
		}[name]
		if ok {
			return r
		}
	}
	return nil
}

func (q *request) build(job *Item, what string) {
	if !q.changes("hudson.model.Item.Build") {
		return
	}
	_ = q.r.ParseForm()
	if job.Disabled {
		q.page(http.StatusConflict, job.FullName()+" is not buildable")
		return
	}
	w := &waiting{job: job, causes: []Cause{ByUser(q.user, orElse(q.j.Users[q.user].Name, q.user))}}
	var given map[string]string
	switch {
	case what == "buildWithParameters" && len(job.Parameters) == 0:
		q.page(http.StatusBadRequest, job.FullName()+" is not parameterized")
		return
	case what == "build" && len(job.Parameters) > 0:
		var form struct {
			Parameter []struct{ Name, Value string }
		}
		if json.Unmarshal([]byte(q.r.FormValue("json")), &form) != nil {
			q.page(http.StatusBadRequest, "This page expects a form submission but had only {}")
			return
		}
		given = map[string]string{}
		for _, p := range form.Parameter {
			if !slices.ContainsFunc(job.Parameters, func(d Parameter) bool { return d.Name == p.Name }) {
				q.page(http.StatusInternalServerError, "No such parameter definition: "+p.Name)
				return
			}
			given[p.Name] = p.Value
		}
	case what == "buildWithParameters":
		given = map[string]string{}
		for name, values := range q.r.Form {
			given[name] = values[0] // what the job has no parameter for is passed over
		}
	}
	for _, d := range job.Parameters {
		if v, ok := given[d.Name]; ok {
			d.Value = v
		} else if what == "build" {
			continue
		}
		d.Type = strings.TrimSuffix(d.Type, "Definition") + "Value"
		w.parameters = append(w.parameters, d)
	}
	at, fresh := q.j.schedule(w)
	status := http.StatusCreated
	if !fresh && what == "buildWithParameters" {
		status = http.StatusSeeOther
	}
	q.redirect(status, fmt.Sprintf("/queue/item/%d/", at.id))
}

func (q *request) serveRun(r *Run, parts []string) {
	j := q.j
	pipeline := r.Job.Kind == Pipeline
	switch what := strings.Join(parts, "/"); {
	case what == "api/json":
		q.api(j.runNode(r))
	case what == "consoleText":
		q.w.Header().Set("Content-Type", "text/plain;charset=utf-8")
		fmt.Fprint(q.w, shown(r.Log))
	case what == "logText/progressiveText" || what == "logText/progressiveHtml":
		q.log(r)
	case what == "wfapi/describe" && pipeline && !j.Without["wfapi"]:
		status := map[string]string{Building: "IN_PROGRESS", NotStarted: "NOT_EXECUTED", Failure: "FAILED"}[r.State]
		if r.Paused && r.State == Building {
			status = "PAUSED_PENDING_INPUT"
		}
		q.w.Header().Set("Content-Type", "application/json;charset=utf-8")
		_ = json.NewEncoder(q.w).Encode(map[string]any{"id": strconv.FormatInt(r.Number, 10), "name": fmt.Sprintf("#%d", r.Number), "status": orElse(status, r.State), "stages": []any{}})
	case what == "stop" || what == "term" && pipeline || what == "kill" && pipeline:
		if q.changes("hudson.model.Item.Cancel") {
			if r.building() {
				j.set(r, Aborted)
			}
			q.redirect(http.StatusFound, r.Job.path()+fmt.Sprintf("%d/", r.Number))
		}
	case what == "rebuild" && !j.Without["rebuild"]:
		if !q.changes("hudson.model.Item.Build") {
			return
		}
		_ = q.r.ParseForm()
		if len(r.Parameters) > 0 && q.r.Form["autorebuild"] == nil {
			q.redirect(http.StatusFound, r.Job.path()+fmt.Sprintf("%d/rebuild/parameterized", r.Number))
			return
		}
		if r.Job.Disabled {
			return // nothing is done, and nothing said
		}
		var causes []Cause
		for _, c := range r.Causes {
			if !strings.HasSuffix(c.Class, "UserIdCause") && !strings.HasSuffix(c.Class, "RebuildCause") {
				causes = append(causes, c)
			}
		}
		causes = append(causes, ByUser(q.user, orElse(j.Users[q.user].Name, q.user)), Cause{
			Class: "com.sonyericsson.rebuild.RebuildCause", Text: fmt.Sprintf("Rebuilds build #%d", r.Number), Upstream: r.Number,
		})
		j.schedule(&waiting{job: r.Job, causes: causes, parameters: slices.Clone(r.Parameters)})
		q.redirect(http.StatusFound, r.Job.path())
	case what == "replay/rebuild" && pipeline && !j.Without["replay"]:
		if !q.changes("hudson.model.Item.Build") {
			return
		}
		if r.Job.Disabled {
			q.page(http.StatusConflict, r.Job.FullName()+" is not buildable")
			return
		}
		if slices.ContainsFunc(r.Parameters, Parameter.secret) {
			q.failure("Replay is not allowed when password parameters are used.")
			return
		}
		j.schedule(&waiting{job: r.Job, parameters: slices.Clone(r.Parameters), checkouts: r.Checkouts, causes: []Cause{
			ByUser(q.user, orElse(j.Users[q.user].Name, q.user)), {Class: "org.jenkinsci.plugins.workflow.cps.replay.ReplayCause", Text: fmt.Sprintf("Rebuilt #%d", r.Number)},
		}})
		q.redirect(http.StatusFound, r.Job.path())
	default:
		q.page(http.StatusNotFound, "Not Found")
	}
}

// mark is what Jenkins keeps in a log to colour and link it: nobody is shown it, but positions count it.
const (
	markBegin = "\x1b[8mha:"
	markEnd   = "\x1b[0m"
)

// Mark is a mark to write into a log.
const Mark = markBegin + "////4NFv7XkJ" + markEnd

var marks = regexp.MustCompile(regexp.QuoteMeta(markBegin) + `.*?` + regexp.QuoteMeta(markEnd))

func shown(log string) string { return marks.ReplaceAllString(log, "") }

func (q *request) log(r *Run) {
	if r.NoLog {
		q.page(http.StatusNotFound, "Not Found")
		return
	}
	start, _ := strconv.Atoi(q.r.FormValue("start"))
	if start < 0 || start > len(r.Log) {
		start = 0 // the log was rolled over
	}
	h := q.w.Header()
	h.Set("Content-Type", "text/plain;charset=utf-8")
	h.Set("X-Text-Size", strconv.Itoa(len(r.Log)))
	if r.building() {
		h.Set("X-More-Data", "true")
	}
	fmt.Fprint(q.w, shown(r.Log[start:]))
}
