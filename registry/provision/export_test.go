package provision

// Before makes each step call hook first, and fail if hook does.
func (o *Options) Before(hook func(step string) error) { o.before = hook }

// PartitionName is the name of a tenant's partition.
func PartitionName(table, tenant string) string { return partitionName(table, tenant) }
