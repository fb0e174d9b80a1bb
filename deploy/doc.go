// Package deploy is what Slipway is run with: images for containers, Compose, Kubernetes, systemd, Prometheus, Grafana. It has no code but its tests, which hold each
// of them to the real thing: the image's own root file system, a real API server, systemd's and Prometheus' own checks, a server's own metrics.
package deploy
