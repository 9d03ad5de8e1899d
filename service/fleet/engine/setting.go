// SPDX-License-Identifier: GPL-3.0-or-later

package engine

// SettingError says what in a pool's configuration does not fit its engine, and what to do. That does not pass by itself.
type SettingError struct{ Problem, Remedy string }

func (e *SettingError) Error() string { return e.Problem + ": " + e.Remedy }
