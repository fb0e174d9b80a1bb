package fetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
)

// The limits of a clone where CloneOptions say nothing.
const (
	cloneBytes   = 1 << 30 // bytes on disk, history and files
	cloneTimeout = 5 * time.Minute

	maxRefOutput = 1 << 20 // bytes that git may print
	entryBytes   = 4 << 10 // what a file takes at least, however small
	watchEvery   = 100 * time.Millisecond
)

// RefKind says what a name in a repository stands for.
type RefKind string

// The kinds of ref.
const (
	Branch RefKind = "branch"
	Tag    RefKind = "tag"
	Commit RefKind = "commit"
)

// Ref is a name in a repository and the commit that it stands for.
type Ref struct {
	Commit string  // full object id, lower case
	Kind   RefKind // Commit for an object id, and for a default branch that is none
	Name   string  // of the branch or tag, without refs/heads/ or refs/tags/; the object id of a commit
}

// CloneOptions say what to clone and where to.
type CloneOptions struct {
	URL      string        // https, http, git, or file below Config.FileRoots
	Ref      string        // see ResolveRef
	Dir      string        // is made, mode 0700; it may exist if it is empty; removed when cloning fails
	Depth    int           // commits of history; 0: all
	MaxBytes int64         // on disk; 0: 1 GiB. Each file counts 4 KiB at least
	Timeout  time.Duration // for everything; 0: 5 minutes
}

// Checkout is what Clone left in its directory.
type Checkout struct {
	Commit      string // full object id
	Branch, Tag string // the one that Ref named, or was the default; both empty for a commit
	Author      string
	AuthorEmail string
	Subject     string // first line of the message, at most 500 bytes
	CommittedAt time.Time
}

var (
	objectID = regexp.MustCompile(`^(?:[0-9a-fA-F]{40}|[0-9a-fA-F]{64})$`)
	abbrevID = regexp.MustCompile(`^[0-9a-fA-F]{7,64}$`)
)

// ResolveRef finds the commit that a ref stands for, exactly: a full object id stands for itself (whether
// the repository has it shows when it is cloned); otherwise a branch of that name, otherwise a tag of that
// name, peeled to its commit. refs/heads/NAME and refs/tags/NAME mean just that one. "" and HEAD are the
// default branch. An abbreviated object id is not taken for one.
func (f *Fetcher) ResolveRef(ctx context.Context, rawURL, ref string) (Ref, error) {
	if err := checkRef(ref); err != nil {
		return Ref{}, err
	}
	inner, cancel := context.WithTimeout(ctx, f.cfg.Timeout.Std())
	defer cancel()
	g, err := f.openGit(inner, rawURL)
	if err != nil {
		return Ref{}, f.failed(ctx, rawURL, err)
	}
	defer g.close()
	found, err := g.resolve(inner, ref)
	if err != nil {
		return Ref{}, f.failed(ctx, rawURL, err)
	}
	return found, nil
}

// Clone makes a working copy of one commit in a fresh directory. Ref means what it means to ResolveRef.
// No hook runs, submodules and large-file pointers are left as they are, and nothing but the repository's
// own server is talked to, with the machine's git (2.37 or newer). Symbolic links of the repository are
// made as they are: whoever reads the directory must not follow them out of it.
//
// A commit that the server does not hand out by its id is looked for in all branches and tags.
func (f *Fetcher) Clone(ctx context.Context, opt CloneOptions) (*Checkout, error) {
	if err := checkRef(opt.Ref); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(opt.Dir)
	if err != nil || opt.Dir == "" {
		return nil, slipway.Errorf(slipway.Internal, "a clone needs a directory").WithCause(err)
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	inner, cancel := context.WithTimeout(ctx, cmp.Or(opt.Timeout, cloneTimeout))
	defer cancel()
	checkout, err := f.clone(inner, opt, dir)
	if err != nil {
		err = f.failed(ctx, opt.URL, err)
		if left := os.RemoveAll(dir); left != nil {
			err = errors.Join(err, left)
		}
		return nil, err
	}
	return checkout, nil
}

func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		entries, readErr := os.ReadDir(dir)
		if readErr == nil && len(entries) == 0 {
			return os.Chmod(dir, 0o700)
		}
		return slipway.Errorf(slipway.Conflict, "the directory to clone into is not empty").WithCause(err)
	}
	return err
}

func (f *Fetcher) clone(ctx context.Context, opt CloneOptions, dir string) (*Checkout, error) {
	g, err := f.openGit(ctx, opt.URL)
	if err != nil {
		return nil, err
	}
	defer g.close()
	ref, err := g.resolve(ctx, opt.Ref)
	if err != nil {
		return nil, err
	}
	g.dir = dir
	stop := g.watch(ctx, cmp.Or(opt.MaxBytes, int64(cloneBytes)))
	defer stop()

	format := "sha1"
	if len(ref.Commit) == 64 {
		format = "sha256"
	}
	if _, err := g.run(ctx, "init", "--quiet", "--template=", "--object-format="+format); err != nil {
		return nil, err
	}
	want := map[RefKind]string{Branch: "refs/heads/" + ref.Name, Tag: "refs/tags/" + ref.Name, Commit: ref.Commit}[ref.Kind]
	fetch := []string{"fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-commit-graph"}
	shallow := fetch
	if opt.Depth > 0 {
		shallow = append(shallow[:len(shallow):len(shallow)], "--depth="+strconv.Itoa(opt.Depth))
	}
	_, err = g.run(ctx, append(shallow, "--", g.url, want)...)
	commit := "FETCH_HEAD^{commit}"
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() && ref.Kind == Commit {
		// The server hands out only what a branch or tag points to. Those refs are fetched to a place
		// of their own, so that none of them can be taken for the commit.
		_, err = g.run(ctx, append(fetch, "--", g.url, "+refs/heads/*:refs/slipway/heads/*", "+refs/tags/*:refs/slipway/tags/*")...)
		commit = ref.Commit + "^{commit}"
	}
	if err != nil {
		return nil, err
	}
	out, err := g.run(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", commit)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return nil, slipway.Errorf(slipway.NotFound, "the repository %s has no commit %s", show(opt.URL), ref.Commit).WithCause(err)
	} else if err != nil {
		return nil, err
	}
	// The branch may have moved since it was resolved: what was fetched is what counts.
	result := &Checkout{Commit: strings.TrimSpace(out)}
	switch ref.Kind {
	case Branch:
		result.Branch = ref.Name
	case Tag:
		result.Tag = ref.Name
	}
	if _, err := g.run(ctx, "checkout", "--quiet", "--detach", "--no-recurse-submodules", result.Commit, "--"); err != nil {
		return nil, err
	}
	if err := stop(); err != nil { // what was written since the last look
		return nil, err
	}
	out, err = g.run(ctx, "log", "-1", "--no-show-signature", "--encoding=UTF-8", "--format=%an%x00%ae%x00%cI%x00%s", result.Commit, "--")
	if err != nil {
		return nil, err
	}
	fields := strings.SplitN(strings.TrimSuffix(strings.ToValidUTF8(out, "\uFFFD"), "\n"), "\x00", 4)
	if len(fields) < 4 {
		return nil, fmt.Errorf("git log printed %d fields", len(fields))
	}
	result.Author, result.AuthorEmail, result.Subject = clip(fields[0]), clip(fields[1]), clip(fields[3])
	// An author may write any date; one that is none is left out.
	if at, err := time.Parse(time.RFC3339, fields[2]); err == nil {
		result.CommittedAt = at.UTC()
	}
	return result, nil
}

func clip(s string) string {
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "")
	}
	return s
}

// checkRef refuses what git would refuse as the name of a branch, and anything that could be taken for
// an option, a range, a pattern or a revision's suffix.
func checkRef(ref string) error {
	bad := ref == "@" || strings.HasPrefix(ref, "-") || strings.HasSuffix(ref, ".") || len(ref) > 250 ||
		strings.Contains(ref, "..") || strings.Contains(ref, "@{") || strings.ContainsAny(ref, " ~^:?*[\\\x7f")
	for i := range len(ref) {
		bad = bad || ref[i] < ' '
	}
	if ref != "" {
		for part := range strings.SplitSeq(ref, "/") {
			bad = bad || part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock")
		}
	}
	if bad || strings.ToValidUTF8(ref, "") != ref {
		return slipway.Errorf(slipway.Invalid, "%q is no branch, tag or full commit id", show(ref))
	}
	return nil
}

// resolve does what ResolveRef says; the ref has been checked.
func (g *git) resolve(ctx context.Context, ref string) (Ref, error) {
	if objectID.MatchString(ref) {
		ref = strings.ToLower(ref)
		return Ref{Commit: ref, Kind: Commit, Name: ref}, nil
	}
	var branch, tag string // full names
	switch {
	case ref == "" || ref == "HEAD":
		branch = "HEAD"
	case strings.HasPrefix(ref, "refs/heads/"):
		branch = ref
	case strings.HasPrefix(ref, "refs/tags/"):
		tag = ref
	case strings.HasPrefix(ref, "refs/"):
		return Ref{}, slipway.Errorf(slipway.Invalid, "%q is neither a branch nor a tag: only refs/heads/ and refs/tags/ are read", show(ref))
	default:
		branch, tag = "refs/heads/"+ref, "refs/tags/"+ref
	}
	args := []string{"ls-remote", "--quiet", "--symref", "--", g.url}
	for _, name := range []string{branch, tag} {
		if name != "" {
			args = append(args, name)
		}
	}
	if tag != "" {
		args = append(args, tag+"^{}") // the commit that an annotated tag points to
	}
	out, err := g.run(ctx, args...)
	if err != nil {
		return Ref{}, err
	}
	// git matches the ends of names; only whole names count here.
	ids, head := map[string]string{}, ""
	for line := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if to, ok := strings.CutPrefix(id, "ref: "); ok {
			if name == "HEAD" {
				head = to
			}
		} else if objectID.MatchString(id) {
			ids[name] = id
		}
	}
	if id := ids[branch]; id != "" {
		if branch == "HEAD" {
			branch = head
		}
		if name, ok := strings.CutPrefix(branch, "refs/heads/"); ok && checkRef(name) == nil {
			return Ref{Commit: id, Kind: Branch, Name: name}, nil
		}
		return Ref{Commit: id, Kind: Commit, Name: id}, nil // a HEAD that is on no branch
	}
	if id := cmp.Or(ids[tag+"^{}"], ids[tag]); tag != "" && id != "" {
		return Ref{Commit: id, Kind: Tag, Name: strings.TrimPrefix(tag, "refs/tags/")}, nil
	}
	switch {
	case branch == "HEAD":
		return Ref{}, slipway.Errorf(slipway.NotFound, "the repository %s has no default branch: name a branch, or push a first commit", show(g.shown))
	case abbrevID.MatchString(ref):
		return Ref{}, slipway.Errorf(slipway.NotFound, "the repository %s has no branch or tag %q; if it is a commit, write its id in full", show(g.shown), ref)
	}
	return Ref{}, slipway.Errorf(slipway.NotFound, "the repository %s has no branch or tag %q", show(g.shown), show(ref))
}

// git runs the machine's git for one repository, in an environment of its own: no configuration, no
// credentials, no prompts, one protocol, one server.
type git struct {
	shown string // the address as the caller wrote it
	url   string // what git is given
	home  string // a temporary folder with the configuration
	close func() // removes it
	dir   string // working directory
	env   []string
	over  atomic.Pointer[slipway.Error] // why the watch ended git
	kill  context.CancelFunc            // ends the git that runs
	mu    sync.Mutex                    // guards kill
}

// openGit checks an address and makes everything ready to give it to git. For http it asks the server
// itself first, with the guarded client: that follows redirects, which git must not, and tells a missing
// repository from a server that is down. The name is then pinned to addresses that were checked.
func (f *Fetcher) openGit(ctx context.Context, rawURL string) (_ *git, err error) {
	g := &git{shown: rawURL}
	config := &gitConfig{}
	var scheme string
	if path, ok, pathErr := filePath(rawURL); pathErr != nil {
		return nil, pathErr
	} else if ok {
		scheme = "file"
		err = f.openFile(g, config, path)
	} else {
		var t target
		if t, err = f.check(rawURL); err != nil {
			return nil, err
		}
		if t.url.RawQuery != "" || t.url.ForceQuery || t.url.Fragment != "" {
			return nil, slipway.Errorf(slipway.Invalid, "the address of a repository has no query or fragment: leave out what follows %s", t)
		}
		if scheme = t.scheme; scheme == "git" {
			err = f.openDaemon(ctx, g, t)
		} else {
			scheme, err = f.openHTTP(ctx, g, config, t)
		}
	}
	if err != nil {
		return nil, err
	}
	config.add("protocol", "", "allow", "never")
	config.add("protocol", scheme, "allow", "always")
	config.add("core", "", "hooksPath", os.DevNull)
	config.add("core", "", "fsmonitor", "false")
	config.add("credential", "", "helper", "")
	config.add("transfer", "", "bundleURI", "false")
	config.add("submodule", "", "recurse", "false")
	config.add("gc", "", "auto", "0")
	config.add("fetch", "", "unpackLimit", "1")       // keep the pack as it comes
	config.add("core", "", "bigFileThreshold", "16m") // stream what is larger instead of holding it in memory
	config.add("maintenance", "", "auto", "false")
	if g.home, g.close, err = f.homes.open(config.text.Bytes()); err != nil {
		return nil, err
	}
	g.dir = g.home
	g.env = append(g.env,
		"PATH="+os.Getenv("PATH"),
		"HOME="+g.home,
		"XDG_CONFIG_HOME="+g.home,
		"LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL="+homeConfig(g.home),
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_ALLOW_PROTOCOL="+scheme,
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=",
		"SSH_ASKPASS=",
		"GIT_LFS_SKIP_SMUDGE=1",
		"GIT_NO_LAZY_FETCH=1",
		"GIT_OPTIONAL_LOCKS=0",
	)
	return g, nil
}

// openFile lets git read one repository below the file roots, whoever owns it.
func (f *Fetcher) openFile(g *git, config *gitConfig, path string) error {
	none := slipway.Errorf(slipway.NotFound, "there is no git repository at %s", show(g.shown))
	at, err := f.root(path, g.shown)
	if errors.Is(err, slipway.NotFound) {
		return none.WithCause(err)
	} else if err != nil {
		return err
	}
	dir := at.path()
	// The repository itself, or the one of a working copy. Git would look further: into files that name
	// another folder, for one.
	if info, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
		if !info.IsDir() {
			return slipway.Errorf(slipway.Invalid, "the repository at %s is a linked one: name the repository that it belongs to", show(g.shown))
		}
		dir = filepath.Join(dir, ".git")
	}
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return none.WithCause(err)
		}
	}
	for _, name := range []string{"objects", "refs", "commondir", "objects/info/alternates", "objects/info", "objects/pack", "packed-refs"} {
		info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name)))
		if err == nil && (info.Mode()&fs.ModeSymlink != 0 || name == "commondir" || name == "objects/info/alternates") {
			return slipway.Errorf(slipway.Invalid, "the repository at %s borrows from another folder (%s): make a full copy of it", show(g.shown), name)
		}
	}
	g.url = "file://" + filepath.ToSlash(dir)
	config.add("safe", "", "directory", dir)
	config.add("safe", "", "directory", strings.TrimSuffix(dir, string(filepath.Separator)+".git"))
	return nil
}

// openDaemon points git at an address that was checked and answers, and tells the server the name.
func (f *Fetcher) openDaemon(ctx context.Context, g *git, t target) error {
	if f.proxy != nil {
		return slipway.Errorf(slipway.Invalid, "%s cannot be read through a proxy: use an https:// address", t)
	}
	conn, err := f.dial(ctx, "tcp", t.host, t.port, t.reach)
	if err != nil {
		return err
	}
	remote := conn.RemoteAddr().String()
	conn.Close()
	g.url = "git://" + remote + t.escapedPath
	g.env = append(g.env, "GIT_OVERRIDE_VIRTUAL_HOST="+net.JoinHostPort(t.host, t.port))
	return nil
}

// openHTTP finds the address behind redirects and pins its host to addresses that were checked.
func (f *Fetcher) openHTTP(ctx context.Context, g *git, config *gitConfig, t target) (scheme string, err error) {
	const service = "/info/refs?service=git-upload-pack"
	base := strings.TrimRight(t.url.String(), "/")
	res, err := f.get(ctx, base+service, http.Header{"Git-Protocol": {"version=2"}})
	if err != nil {
		return "", err
	}
	res.Body.Close()
	if err := checkStatus(g.shown, res); err != nil {
		return "", err
	}
	final := res.Request.URL.String()
	base, ok := strings.CutSuffix(final, service)
	if !ok || res.Header.Get("Content-Type") != "application/x-git-upload-pack-advertisement" {
		return "", slipway.Errorf(slipway.Invalid, "%s is no git repository: give the address that git clone takes", show(g.shown))
	}
	if t, err = f.check(base); err != nil {
		return "", err
	}
	g.url = base
	config.add("http", "", "followRedirects", "false") // also turns off alternates on other servers
	config.add("http", "", "userAgent", "git/"+userAgent)
	config.add("http", "", "proxy", f.cfg.Proxy) // empty: none, whatever the environment says
	if f.cfg.CAFile != "" {
		config.add("http", "", "sslCAInfo", f.cfg.CAFile)
	}
	if f.proxy == nil && !t.literal {
		if err := needPinning(); err != nil {
			return "", err
		}
		addrs, err := f.resolve(ctx, t.host, t.reach)
		if err != nil {
			return "", err
		}
		list := make([]string, len(addrs))
		for i, addr := range addrs {
			list[i] = addr.String()
			if addr.Is6() {
				list[i] = "[" + list[i] + "]"
			}
		}
		config.add("http", "", "curloptResolve", t.url.Hostname()+":"+t.port+":"+strings.Join(list, ","))
	}
	return t.scheme, nil
}

// gitVersion is asked once; an old git would pass over http.curloptResolve in silence.
var gitVersion = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("git", "version").Output()
	return string(out), err
})

var versionNumber = regexp.MustCompile(`(\d+)\.(\d+)`)

func needPinning() error {
	out, err := gitVersion()
	m := versionNumber.FindStringSubmatch(out)
	if err != nil || m == nil {
		return errNoGit(err)
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major < 2 || major == 2 && minor < 37 {
		return slipway.Errorf(slipway.Unavailable, "this server's git is too old to be held to a checked address: an operator must install git 2.37 or newer")
	}
	return nil
}

func errNoGit(cause error) error {
	return slipway.Errorf(slipway.Unavailable, "this server has no git: an operator must install git 2.37 or newer").WithCause(cause)
}

// gitConfig writes a configuration file. It keeps addresses and a proxy's password out of the arguments,
// which every user of the machine can read.
type gitConfig struct{ text bytes.Buffer }

var quoteConfig = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`)

func (c *gitConfig) add(section, sub, key, value string) {
	if sub != "" {
		section += ` "` + sub + `"`
	}
	fmt.Fprintf(&c.text, "[%s]\n\t%s = \"%s\"\n", section, key, quoteConfig.Replace(value))
}

// run gives what git prints. git and all that it started are killed when ctx ends, the watch says so, or
// it prints too much. A git that ends by itself with a failure gives an *exec.ExitError in a coded error.
func (g *git) run(ctx context.Context, args ...string) (string, error) {
	if over := g.over.Load(); over != nil {
		return "", over
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.mu.Lock()
	g.kill = cancel
	g.mu.Unlock()

	out := &limited{max: maxRefOutput, full: cancel}
	errOut := &limited{max: 4 << 10}
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = g.dir
	cmd.Env = append(g.env[:len(g.env):len(g.env)], "GIT_CEILING_DIRECTORIES="+filepath.Dir(g.dir))
	cmd.Stdout, cmd.Stderr = out, errOut
	cmd.WaitDelay = 2 * time.Second
	err := runGroup(cmd)
	switch {
	case g.over.Load() != nil:
		return "", g.over.Load()
	case out.cut:
		return "", slipway.Errorf(slipway.TooLarge, "the repository %s has too many refs of that name", show(g.shown))
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return "", errNoGit(err)
	case err != nil:
		code := slipway.Unavailable
		message := "git could not read the repository %s"
		if strings.HasPrefix(g.url, "git://") { // that protocol has no other way to say so
			code, message = slipway.NotFound, "the server has no repository %s, or does not serve it"
		}
		return "", slipway.Errorf(code, message, show(g.shown)).
			WithCause(fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(errOut.text.Bytes())))
	}
	return out.text.String(), nil
}

// watch looks at the size of the directory while git works, and ends git when it is over max bytes. The
// function that it returns ends the watch with a last look; it may be called again.
func (g *git) watch(ctx context.Context, max int64) (stop func() error) {
	look := func() bool {
		if diskUse(g.dir, max) <= max {
			return false
		}
		g.over.Store(slipway.Errorf(slipway.TooLarge, "the repository %s takes more than %s on disk", show(g.shown), slipway.Size(max)))
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.kill != nil {
			g.kill()
		}
		return true
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if look() {
					return
				}
			}
		}
	}()
	return sync.OnceValue(func() error {
		cancel()
		<-done
		if g.over.Load() == nil {
			look()
		}
		if over := g.over.Load(); over != nil {
			return over
		}
		return nil
	})
}

// diskUse adds up a directory, and stops when it is over max.
func diskUse(dir string, max int64) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // git moves files about
		}
		size := int64(entryBytes)
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			size = (info.Size() + entryBytes) &^ (entryBytes - 1)
		}
		if sum += size; sum > max {
			return fs.SkipAll
		}
		return nil
	})
	return sum
}

// limited keeps the first max bytes and calls full when there are more.
type limited struct {
	text bytes.Buffer
	max  int
	cut  bool
	full func()
}

func (w *limited) Write(p []byte) (int, error) {
	if room := w.max - w.text.Len(); len(p) > room {
		w.text.Write(p[:room])
		w.cut = true
		if w.full != nil {
			w.full()
		}
	} else {
		w.text.Write(p)
	}
	return len(p), nil
}
