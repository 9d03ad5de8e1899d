// SPDX-License-Identifier: GPL-3.0-or-later

// Package dashboards tests the dashboards and the alert rules of deploy/, without a daemon (LO-602).
package dashboards
