package integration_test

import "context"

func asPublisher(context.Context) (bool, error) { return false, nil }
