// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"reflect"
	"slices"
)

// Diff lists the settings in which two configurations differ, as paths such as `log.level` or `sampler_profiles.chat`. A pool that only one of them
// has appears as `pools.ID`; a setting of a pool that both have appears as `pools.ID.queue.capacity`.
func Diff(a, b Config) []string {
	var paths []string
	pools := func(c Config, id string) *Pool {
		if i := slices.IndexFunc(c.Pools, func(p Pool) bool { return p.ID == id }); i >= 0 {
			return &c.Pools[i]
		}
		return nil
	}
	for _, p := range a.Pools {
		if q := pools(b, p.ID); q != nil {
			diff(&paths, "pools."+p.ID, reflect.ValueOf(p), reflect.ValueOf(*q))
		} else {
			paths = append(paths, "pools."+p.ID)
		}
	}
	for _, p := range b.Pools {
		if pools(a, p.ID) == nil {
			paths = append(paths, "pools."+p.ID)
		}
	}
	a.Pools, b.Pools = nil, nil
	diff(&paths, "", reflect.ValueOf(a), reflect.ValueOf(b))
	slices.Sort(paths)
	return paths
}

func diff(paths *[]string, path string, a, b reflect.Value) {
	switch a.Kind() {
	case reflect.Struct:
		others := fields(b)
		for name, field := range fields(a) {
			diff(paths, join(path, name), field, others[name])
		}
	case reflect.Map:
		for _, key := range append(a.MapKeys(), b.MapKeys()...) {
			x, y := a.MapIndex(key), b.MapIndex(key)
			if name := join(path, key.String()); (!x.IsValid() || !y.IsValid() || !reflect.DeepEqual(x.Interface(), y.Interface())) && !slices.Contains(*paths, name) {
				*paths = append(*paths, name)
			}
		}
	default:
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			*paths = append(*paths, path)
		}
	}
}
