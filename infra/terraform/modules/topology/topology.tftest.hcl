variables {
  prefix = "push0"
  pools  = ["trusted", "gpu"]
}

run "patterns_are_written_out_for_each_pool_and_class" {
  command = plan

  assert {
    condition     = length([for name, queue in output.queues : name if queue.pool == "gpu"]) == 6
    error_message = "A pool has three work queues and their dead-letter queues."
  }
  assert {
    condition     = output.queues["work-gpu-bulk"].dead_letter_queue == "work-gpu-bulk-dlq" && output.queues["work-gpu-bulk-dlq"].dead_letters_of == "work-gpu-bulk"
    error_message = "A work queue's dead letters go to the queue of the same pool and class."
  }
  assert {
    condition     = !anytrue([for name, queue in output.queues : length(regexall("[{}]", "${name}${queue.name}")) > 0])
    error_message = "A pattern was left."
  }
  assert {
    condition     = output.queues["submissions.fifo"].name == "push0-submissions.fifo" && output.queues["submissions.fifo"].throughput_limit == "perMessageGroupId"
    error_message = "Names begin with the prefix, and FIFO queues end in .fifo."
  }
}

run "every_source_is_a_queue_that_lives_six_times_as_long_as_its_function" {
  command = plan

  assert {
    condition     = alltrue([for source in output.sources : contains(keys(output.queues), source.queue)])
    error_message = "A source is no queue."
  }
  assert {
    condition     = alltrue([for source in output.sources : output.queues[source.queue].visibility_s == 6 * output.functions[source.function].timeout_s])
    error_message = "A queue's visibility is not six times its function's time-out."
  }
  assert {
    condition     = length([for source in output.sources : source if source.function == "collector"]) == 14
    error_message = "The collector takes from eight queues and from the dead letters of two pools' three work queues."
  }
}

run "every_dead_letter_queue_is_of_the_same_kind" {
  command = plan

  assert {
    condition     = alltrue([for name, queue in output.queues : queue.dead_letter_queue == null ? true : output.queues[queue.dead_letter_queue].is_fifo == queue.is_fifo])
    error_message = "Dead letters of a FIFO queue go to a FIFO queue, others to a standard one."
  }
}
