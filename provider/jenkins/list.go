package jenkins

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// item is a job, or what holds jobs: a folder, a multibranch project or an organization folder.
type item struct {
	Class    string `json:"_class"`
	FullName string `json:"fullName"`
	Jobs     []item `json:"jobs"`      // not null of what holds jobs
	Runs     []run  `json:"allBuilds"` // not null of a job; newest first, those that were asked for
	Last     *run   `json:"lastBuild"`
}

const (
	maxPage     = 100
	levels      = 3      // of what lies in a project: an organization folder holds repositories, which hold branches
	firstWindow = 8      // newest builds of each job that a folder is first read with; more when those are not enough
	maxWindow   = 1000   // and at most
	maxRuns     = 20_000 // builds that are read of a folder at once
	trust       = 10 * time.Minute
)

// tree asks for a project and what lies in it: of a job itself what own says, of one in a folder what nested says.
func tree(own, nested string) string {
	t := "fullName," + nested
	for range levels - 1 {
		t = "fullName," + nested + ",jobs[" + t + "]"
	}
	return "fullName," + own + ",jobs[" + t + "]"
}

func runsTree(from, to int) string { return fmt.Sprintf("allBuilds[%s]{%d,%d}", runTree, from, to) }

// item reads a project.
func (c *client) item(ctx context.Context, project, tree string) (i item, err error) {
	name, err := fullName(project)
	if err != nil {
		return i, err
	}
	_, err = c.ask(ctx, provider.Request{Path: jobPath(name) + "/api/json", Query: url.Values{"tree": {tree}}}, &i)
	if err == nil && i.FullName == "" {
		err = c.api.Strange(errors.New("the job has no name"))
	}
	if err != nil {
		return i, fmt.Errorf("job %s: %w", project, err)
	}
	return i, nil
}

// list reads the builds of a job as Jenkins has them, and merges those of the jobs in a folder.
func (c *client) list(ctx context.Context, project string, o provider.ListOptions) (provider.Page[slipway.Build], error) {
	limit := maxPage
	if o.Limit > 0 {
		limit = min(limit, o.Limit)
	}
	var list provider.Page[slipway.Build]
	if rest, ok := strings.CutPrefix(o.Cursor, folderCursor); ok {
		from, err := readPlace(rest)
		if err != nil {
			return list, err
		}
		return c.folder(ctx, project, nil, from, limit)
	}
	if o.Cursor != "" {
		return c.job(ctx, project, nil, o)
	}
	if o.Validator != "" {
		same, err := c.unchanged(ctx, project, o.Validator)
		if same || err != nil {
			return provider.Page[slipway.Build]{Validator: o.Validator, NotModified: same}, err
		}
	}
	i, err := c.item(ctx, project, tree(runsTree(0, limit+1), runsTree(0, firstWindow)))
	if errors.Is(err, slipway.TooLarge) {
		return c.folder(ctx, project, nil, place{window: firstWindow / 4}, limit)
	}
	if err != nil {
		return list, err
	}
	switch {
	case i.Jobs != nil:
		list, err = c.folder(ctx, project, &i, place{window: firstWindow}, limit)
	case i.Runs != nil:
		o.Limit = limit
		list, err = c.job(ctx, project, &i, o)
	default:
		return list, c.api.Strange(fmt.Errorf("a %s has neither builds nor jobs", i.Class))
	}
	list.Validator = c.validator(i)
	return list, err
}

// job reads the builds of a job, page by page. first is what was read of it for a first page.
func (c *client) job(ctx context.Context, project string, first *item, o provider.ListOptions) (provider.Page[slipway.Build], error) {
	name := ""
	page, err := provider.Numbered[run]{
		Size: maxPage,
		Key:  func(r run) (time.Time, int64) { return time.Time{}, r.Number }, // the order in which they began
		Read: func(ctx context.Context, page, size int, _ string) (n provider.NumberedPage[run], err error) {
			i := first
			if i == nil {
				from := (page - 1) * size
				read, err := c.item(ctx, project, "fullName,"+runsTree(from, from+size+1))
				if err != nil {
					return n, err
				}
				i = &read
			}
			name = i.FullName
			return provider.NumberedPage[run]{Items: i.Runs[:min(size, len(i.Runs))], More: len(i.Runs) > size}, nil
		},
	}.List(ctx, o)
	if err != nil {
		return provider.Page[slipway.Build]{}, err
	}
	var list []found
	for _, r := range page.Items {
		list = append(list, found{job: name, run: r})
	}
	return provider.Page[slipway.Build]{Items: c.builds(ctx, list), Next: page.Next}, nil
}

// found is a build and the job that it is of.
type found struct {
	job string
	run run
}

// compare orders builds of several jobs, newest first.
func (f found) compare(other found) int {
	return cmp.Or(cmp.Compare(other.run.Timestamp, f.run.Timestamp), cmp.Compare(other.job, f.job), cmp.Compare(other.run.Number, f.run.Number))
}

// place is a cursor in a folder: how many of each job's newest builds are read, and the last build that was shown.
type place struct {
	window int
	last   *found
}

const folderCursor = "f"

func (p place) String() string {
	return fmt.Sprintf("%s%d.%d.%d.%s", folderCursor, p.window, p.last.run.Timestamp, p.last.run.Number, p.last.job)
}

func readPlace(cursor string) (p place, err error) {
	parts := strings.SplitN(cursor, ".", 4)
	if len(parts) == 4 {
		p.last = &found{job: parts[3]}
		var errs [3]error
		p.window, errs[0] = strconv.Atoi(parts[0])
		p.last.run.Timestamp, errs[1] = strconv.ParseInt(parts[1], 10, 64)
		p.last.run.Number, errs[2] = strconv.ParseInt(parts[2], 10, 64)
		err = errors.Join(errs[:]...)
	}
	if len(parts) != 4 || err != nil || p.window < 1 || p.window > maxWindow {
		return p, slipway.Errorf(slipway.Invalid, "this is no cursor of this provider; read the list from its start")
	}
	return p, nil
}

// folder merges the builds of all jobs in a project. Jenkins gives the newest few of each job, so what is certain is what is not older than the oldest of a job that has more:
// where that leaves nothing to show, more of each are read. first is what was read for a first page.
func (c *client) folder(ctx context.Context, project string, first *item, from place, limit int) (list provider.Page[slipway.Build], err error) {
	for {
		i := first
		if i == nil {
			read, err := c.item(ctx, project, tree(runsTree(0, 0), runsTree(0, from.window)))
			switch {
			case errors.Is(err, slipway.TooLarge) && from.last != nil:
				return list, nil // what is older is not to be had
			case errors.Is(err, slipway.TooLarge) && from.window > 1:
				from.window /= 2
				continue
			case errors.Is(err, slipway.TooLarge):
				return list, slipway.Errorf(slipway.TooLarge, "%s holds too many jobs to be read at once; name repositories or jobs in it", project).WithCause(err)
			case err != nil:
				return list, err
			}
			i = &read
		}
		first = nil
		all, certain, jobs := merge(*i, from.window)
		wider := min(from.window*4, c.window, max(maxRuns/max(jobs, 1), 1))
		if certain != nil && wider <= from.window {
			certain = nil // older ones of a job are not read
		}
		var page []found
		for _, f := range all {
			if certain != nil && f.compare(*certain) > 0 {
				break
			}
			if from.last == nil || f.compare(*from.last) > 0 {
				page = append(page, f)
			}
		}
		switch {
		case len(page) > limit:
			page = page[:limit]
			list.Next = place{from.window, &page[limit-1]}.String()
		case certain == nil: // that was all
		case len(page) == 0:
			from.window = wider
			continue
		default:
			list.Next = place{wider, &page[len(page)-1]}.String()
		}
		list.Items = c.builds(ctx, page)
		return list, nil
	}
}

// merge gives the builds that were read of all jobs in a project, newest first, and the newest of those that are the oldest of a job that may have more.
func merge(i item, window int) (all []found, certain *found, jobs int) {
	for job := range i.all {
		jobs++
		for _, r := range job.Runs {
			all = append(all, found{job.FullName, r})
		}
		if len(job.Runs) >= window {
			oldest := found{job.FullName, job.Runs[len(job.Runs)-1]}
			if certain == nil || oldest.compare(*certain) < 0 {
				certain = &oldest
			}
		}
	}
	slices.SortFunc(all, found.compare)
	return all, certain, jobs
}

// all goes through the jobs of a project, which are itself when it is one.
func (i item) all(yield func(item) bool) {
	var visit func(item) bool
	visit = func(i item) bool {
		for _, nested := range i.Jobs {
			if !visit(nested) {
				return false
			}
		}
		return i.FullName == "" || yield(i)
	}
	visit(i)
}

// validator tells a project's builds from what they may become: which is the newest of each job. "" while one of them is running. Jenkins has no conditional requests; asking for
// the newest builds alone is the next best thing. It is believed for a while only, as a build that began long ago may end unseen.
func (c *client) validator(i item) string {
	var newest []string
	for job := range i.all {
		if job.Last == nil && len(job.Runs) > 0 {
			job.Last = &job.Runs[0]
		}
		if job.Last != nil && job.Last.Building || slices.ContainsFunc(job.Runs, func(r run) bool { return r.Building }) {
			return ""
		}
		if job.Last != nil {
			newest = append(newest, buildID(job.FullName, job.Last.Number))
		}
	}
	slices.Sort(newest)
	sum := sha256.Sum256([]byte(strings.Join(newest, "\n")))
	return fmt.Sprintf("%s.%d", hex.EncodeToString(sum[:16]), c.now().Add(trust).Unix())
}

func (c *client) unchanged(ctx context.Context, project, validator string) (bool, error) {
	before, until, _ := strings.Cut(validator, ".")
	if seconds, err := strconv.ParseInt(until, 10, 64); err != nil || c.now().After(time.Unix(seconds, 0)) || time.Unix(seconds, 0).After(c.now().Add(trust)) {
		return false, nil
	}
	const last = "lastBuild[number,building]"
	i, err := c.item(ctx, project, tree(last, last))
	if err != nil {
		return false, err
	}
	now, _, _ := strings.Cut(c.validator(i), ".")
	return now == before, nil
}
