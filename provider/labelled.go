package provider

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
)

// The annotations of Backstage's Kubernetes plugin, by which an entity says which objects of a cluster are its own.
const (
	KubernetesID        = "backstage.io/kubernetes-id"
	KubernetesNamespace = "backstage.io/kubernetes-namespace"
	KubernetesSelector  = "backstage.io/kubernetes-label-selector"
	KubernetesCluster   = "backstage.io/kubernetes-cluster"
)

// Labelled means the objects of a cluster that a label selector selects, in one namespace or, with "", in all. It is the project of providers on a cluster.
type Labelled struct{ Namespace, Selector string }

// everywhere stands for all namespaces in a project's text.
const everywhere = "*"

// String writes it as a project: namespace/selector, with * for all namespaces.
func (l Labelled) String() string { return cmp.Or(l.Namespace, everywhere) + "/" + l.Selector }

// ReadLabelled reads what String wrote. false: the text is no such project.
func ReadLabelled(project string) (Labelled, bool) {
	namespace, selector, ok := strings.Cut(project, "/")
	if !ok || !selects.MatchString(selector) || namespace != everywhere && !NamespaceName(namespace) {
		return Labelled{}, false
	}
	return Labelled{strings.TrimPrefix(namespace, everywhere), selector}, true
}

// LabelledOf reads the annotations of an entity. The selector is that of KubernetesSelector, else KubernetesID=<value>, with the value of the annotation KubernetesID or else id.
// The namespace is that of KubernetesNamespace, else namespace. It returns false if there is no selector, if it or the namespace is malformed, or if KubernetesCluster names another
// cluster than cluster.
func LabelledOf(e *slipway.Entity, cluster, namespace, id string) (Labelled, bool) {
	a := func(key string) string { return strings.TrimSpace(e.Metadata.Annotations[key]) }
	if in := a(KubernetesCluster); in != "" && in != cluster {
		return Labelled{}, false
	}
	text := a(KubernetesSelector)
	if id = cmp.Or(a(KubernetesID), id); text == "" && id != "" {
		text = KubernetesID + "=" + id
	}
	selector, ok := Selector(text)
	l := Labelled{cmp.Or(a(KubernetesNamespace), namespace), selector}
	return l, ok && (l.Namespace == "" || NamespaceName(l.Namespace))
}

var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	selects  = regexp.MustCompile(`^[A-Za-z0-9./_=!(), -]{1,400}$`)
)

// NamespaceName reports whether a text is a valid name of a namespace: a DNS label.
func NamespaceName(s string) bool { return dnsLabel.MatchString(s) }

// Selector normalizes a label selector, so that equal ones have one spelling: parts sorted, no needless blanks, = for ==. It returns false for an empty selector and for characters
// that none can have; whether the rest is well-formed is the cluster's to say.
func Selector(s string) (string, bool) {
	var parts []string
	depth, start := 0, 0
	for i, r := range s + "," {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth <= 0:
			if p := strings.Join(strings.Fields(s[start:min(i, len(s))]), " "); p != "" {
				if !strings.ContainsAny(p, "()") { // a in (b, c) needs its blanks
					p = strings.ReplaceAll(strings.ReplaceAll(p, " ", ""), "==", "=")
				}
				parts = append(parts, p)
			}
			start = i + 1
		}
	}
	slices.Sort(parts)
	s = strings.Join(slices.Compact(parts), ",")
	return s, selects.MatchString(s)
}
