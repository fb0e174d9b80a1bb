package slipway

import "testing"

func FuzzEntityRef(f *testing.F) {
	for _, s := range []string{"component:default/web", "web", "User:Jane", ":/", "a:b:c/d/e", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseEntityRef(s, EntityRef{Kind: "component"})
		if err != nil {
			return
		}
		again, err := ParseEntityRef(ref.String(), EntityRef{})
		if err != nil || again.String() != ref.String() {
			t.Errorf("%q is %q, which is read as %q, %v", s, ref, again, err)
		}
	})
}

func FuzzUnits(f *testing.F) {
	for _, s := range []string{"90s", "1h30m", "400d", "5y", "293y", "585y", "10MiB", "-1", "9999999999999999999d", "1e400GiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil {
			if d < 0 {
				t.Errorf("%q is %s, less than nothing", s, d)
			}
			if again, err := ParseDuration(d.String()); err != nil || again != d {
				t.Errorf("%q is %s, which is read as %s, %v", s, d, again, err)
			}
		}
		if n, err := ParseSize(s); err == nil {
			if again, err := ParseSize(n.String()); err != nil || again != n {
				t.Errorf("%q is %s, which is read as %s, %v", s, n, again, err)
			}
		}
	})
}
