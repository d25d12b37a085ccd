variable "prefix" {
  description = "What every name in the account begins with. Bucket names are shared with the whole world, so choose one of your own."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$", var.prefix))
    error_message = "1 to 20 of a-z, 0-9 and -, no - at either end."
  }
}

variable "config" {
  description = "Directory with push0.toml and everything that it names: pipelines and keys. Functions and workers are given all of it."
  type        = string

  validation {
    condition     = fileexists("${var.config}/push0.toml")
    error_message = "There is no push0.toml in this directory."
  }
}

variable "packages" {
  description = "Directory with dispatcher.zip, collector.zip and reaper.zip of this module's version, as scripts/package makes them: target/package/x86_64 or target/package/arm64, as `architecture` says."
  type        = string

  validation {
    condition     = alltrue([for name in ["dispatcher", "collector", "reaper"] : fileexists("${var.packages}/${name}.zip")])
    error_message = "dispatcher.zip, collector.zip and reaper.zip must be in this directory: scripts/package makes them."
  }
}

variable "architecture" {
  description = "What the functions' packages were built for."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "x86_64 or arm64."
  }
}

variable "chains" {
  description = "Chains of push0.toml: each has alarms of its own."
  type        = list(string)

  validation {
    condition     = length(var.chains) > 0 && length(distinct(var.chains)) == length(var.chains)
    error_message = "At least one chain, each once."
  }
}

variable "pools" {
  description = <<-EOT
    Pools of workers, by the names that pipelines give them: the machine image of infra/packer, instance types that are equal enough to stand in
    for each other, proofs at a time on an instance, least and most instances, how many of them are on demand whatever Spot costs, the share of the
    rest that is on demand, tasks for which one instance is enough, GiB of disk, and what the prover needs of a GPU (null: none).
  EOT
  type = map(object({
    image              = string
    instance_types     = list(string)
    slots              = optional(number, 1)
    min                = optional(number, 0)
    max                = number
    on_demand_base     = optional(number, 0)
    on_demand_percent  = optional(number, 0)
    tasks_per_instance = optional(number, 3)
    disk_gib           = optional(number, 100)
    gpu = optional(object({
      compute_capability = number
      memory_gib         = number
    }))
  }))

  validation {
    condition     = alltrue([for name in keys(var.pools) : can(regex("^[a-z][a-z0-9-]{0,31}$", name)) && name != "trusted"])
    error_message = "A pool's name is 1 to 32 of a-z, 0-9 and -, beginning with a letter; `trusted` has a variable of its own."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : startswith(pool.image, "ami-") && length(pool.instance_types) > 0])
    error_message = "A pool needs an image (ami-…) and at least one instance type; with Spot take three or more."
  }
  validation {
    condition = alltrue([for pool in values(var.pools) :
      0 <= pool.min && pool.min <= pool.max && 0 < pool.max && 0 <= pool.on_demand_base && pool.on_demand_base <= pool.max
    ])
    error_message = "0 <= min <= max, 0 < max, and no more on demand than max."
  }
  validation {
    condition = alltrue([for pool in values(var.pools) :
      0 <= pool.on_demand_percent && pool.on_demand_percent <= 100 && pool.slots >= 1 && pool.tasks_per_instance >= pool.slots && pool.disk_gib >= 20
    ])
    error_message = "on_demand_percent is 0 to 100, slots are 1 or more, tasks_per_instance is no less than slots, disk_gib is 20 or more."
  }
  validation {
    condition = alltrue(flatten([for pool in values(var.pools) : [for type in pool.instance_types :
      pool.gpu == null ? true : try(local.gpus[split(".", type)[0]].memory_gib, 0) >= pool.gpu.memory_gib
    ]]))
    error_message = "One of the instance types has less GPU memory than the pool's prover needs, or is none of ${join(", ", keys(local.gpus))}."
  }
  validation {
    condition = alltrue(flatten([for pool in values(var.pools) : [for type in pool.instance_types :
      pool.gpu == null ? true : try(local.gpus[split(".", type)[0]].compute_capability, 0) >= pool.gpu.compute_capability
    ]]))
    error_message = "One of the instance types has an older GPU than the pool's prover was built for."
  }
}

variable "trusted" {
  description = "The trusted pool, which splits witnesses and verifies proofs: image, instance types, and how many instances. Two, so that one can be lost; none of them is Spot."
  type = object({
    image          = string
    instance_types = list(string)
    slots          = optional(number, 1)
    instances      = optional(number, 2)
    disk_gib       = optional(number, 50)
  })

  validation {
    condition     = startswith(var.trusted.image, "ami-") && length(var.trusted.instance_types) > 0
    error_message = "The trusted pool needs an image (ami-…) and at least one instance type."
  }
  validation {
    condition     = var.trusted.instances >= 1 && var.trusted.slots >= 1 && var.trusted.disk_gib >= 20
    error_message = "At least one instance with one slot and 20 GiB: without it nothing is split and nothing is verified."
  }
}

variable "network" {
  description = "An existing network: its VPC (with DNS support and host names, where `sqs_endpoint` is on) and private subnets with a way out by NAT; endpoints of S3 and DynamoDB are advised. null: one is made."
  type = object({
    vpc     = string
    subnets = list(string)
  })
  default = null

  validation {
    condition     = var.network == null ? true : startswith(var.network.vpc, "vpc-") && length(var.network.subnets) > 0
    error_message = "vpc-… and at least one subnet-…."
  }
}

variable "cidr" {
  description = "Addresses of the network that is made; a /20 or larger."
  type        = string
  default     = "10.80.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && tonumber(split("/", var.cidr)[1]) <= 20
    error_message = "An IPv4 range such as 10.80.0.0/16, no smaller than a /20."
  }
}

variable "zones" {
  description = "Availability zones of the network that is made. Spot has more to choose from in more of them."
  type        = number
  default     = 3

  validation {
    condition     = var.zones >= 1 && var.zones <= 6
    error_message = "1 to 6."
  }
}

variable "sqs_endpoint" {
  description = "Whether workers reach SQS by an endpoint in the network instead of through NAT: paid by the hour and zone."
  type        = bool
  default     = false
}

variable "kms_key" {
  description = "ARN of a customer key for queues, table and buckets. Its policy must let S3 deliver to encrypted queues (README). null: keys of SQS, DynamoDB and S3."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null ? true : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key))
    error_message = "The ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID; an alias cannot be granted to S3."
  }
}

variable "proof_lock_days" {
  description = "Days for which nobody, not even the account's root, can delete a final proof, nor anything else that came into its bucket since (object lock in compliance mode). 0: what comes is not locked. A bucket that was locked once keeps versions for ever."
  type        = number
  default     = 0

  validation {
    condition     = var.proof_lock_days >= 0 && var.proof_lock_days <= 36500
    error_message = "0 to 36500 days."
  }
}

variable "old_version_days" {
  description = "Days for which what was overwritten or deleted can be brought back, in a bucket with versions."
  type        = number
  default     = 30

  validation {
    condition     = var.old_version_days >= 1
    error_message = "At least a day."
  }
}

variable "deletion_protection" {
  description = "Whether the table cannot be deleted, nor buckets that hold anything. Set it to false and apply before `terraform destroy`."
  type        = bool
  default     = true
}

variable "log_days" {
  description = "Days for which the functions' logs are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_days)
    error_message = "One of CloudWatch's: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, …"
  }
}

variable "provisioned_pollers" {
  description = "Event pollers that are always there for each standard queue of a function, 2 or more: quicker, paid by the hour. 0: Lambda's own, on demand."
  type        = number
  default     = 0

  validation {
    condition     = var.provisioned_pollers == 0 || (var.provisioned_pollers >= 2 && var.provisioned_pollers <= 200)
    error_message = "0, or 2 to 200."
  }
}

variable "concurrency" {
  description = "Concurrent invocations kept for each function, out of the account's: null, none are kept and none are forbidden. The reaper always has 1."
  type        = number
  default     = null

  validation {
    condition     = var.concurrency == null ? true : var.concurrency >= 5
    error_message = "5 or more: with fewer a function's sources throttle each other."
  }
}

variable "hedged_stages" {
  description = "Names of the stages whose policy has `hedge` (docs/hedging.md): each gets an alarm and a graph of its stragglers."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for stage in var.hedged_stages : can(regex("^[a-z0-9-]{1,32}$", stage))])
    error_message = "A stage is named as in its pipeline file: 1 to 32 of a-z, 0-9 and -."
  }
}

variable "slot_s" {
  description = "Seconds between two blocks of a chain: what alarms measure delays by."
  type        = number
  default     = 12

  validation {
    condition     = var.slot_s >= 1
    error_message = "At least a second."
  }
}

variable "lag_blocks" {
  description = "Blocks released and not final, from which a chain's lag is an alarm. Less than its window."
  type        = number
  default     = 8

  validation {
    condition     = var.lag_blocks >= 1
    error_message = "At least 1."
  }
}

variable "alarm_topics" {
  description = "ARNs of SNS topics that alarms tell, also when they are over."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for topic in var.alarm_topics : can(regex("^arn:[a-z-]+:sns:", topic))])
    error_message = "ARNs of topics: arn:aws:sns:REGION:ACCOUNT:NAME."
  }
}

variable "runbook" {
  # any: a folder or an address, as operators like it
  description = "Where the pages of docs/runbook are: each alarm's text ends with its page."
  type        = string
  default     = "docs/runbook"
}

variable "drain_s" {
  description = "Seconds for which a terminated instance may go on with its tasks: longer than the longest of them."
  type        = number
  default     = 600

  validation {
    condition     = var.drain_s >= 30 && var.drain_s <= 172800
    error_message = "30 seconds to 48 hours."
  }
}

variable "tags" {
  # any: AWS says at once what is no tag
  description = "Tags of everything that can have some."
  type        = map(string)
  default     = {}
}
