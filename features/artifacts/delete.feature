Feature: An ended task can be deleted
  What was asked and answered goes, from the files too. That the task existed, and how it ended, stays.

  @LO-832 @LO-833 @LO-301
  Scenario: Nothing of a deleted task can be read, and its id stays taken
    Given the settings
      | artifacts | {keep_prompts: true, keep_transcripts: true} |
    And a daemon
    When I submit task "gone" with
      | task_id | gone                                         |
      | prompt  | Write a haiku about glass containing "nine". |
    And I follow task "gone"
    Then stream "gone" ends with end
    When I run "llama-orch rm gone"
    Then it exits with 0
    And it says "deleted task gone"
    And no file of the data folder holds "about glass containing" or the text of stream "gone"
    When I send GET "/v1/tasks/gone"
    Then the answer is 410 DELETED
    And its message says "was deleted at 2"
    When I send GET "/v1/tasks/gone/stream"
    Then the answer is 410 DELETED
    When I send POST "/v1/tasks/gone/cancel"
    Then the answer is 410 DELETED
    When I run "llama-orch proof gone"
    Then it exits with 1
    And it says "DELETED"
    When I run "llama-orch replay gone"
    Then it exits with 1
    And it says "DELETED"
    When I submit task "again" with
      | task_id | gone                                         |
      | prompt  | Write a haiku about glass containing "nine". |
    Then the answer is 410 DELETED
    And its message says "was deleted at 2"
    When I send GET "/v1/tasks"
    Then its body has
      | tasks.0.task_id    | gone      |
      | tasks.0.state      | completed |
      | tasks.0.deleted_at | present   |
      | tasks.0.end        | absent    |
    And the log has a line "a task was deleted" with
      | job_id     | gone      |
      | deleted_by | localhost |
      | audit      | true      |
    When I send DELETE "/v1/tasks/gone"
    Then the answer is 204

  @LO-832
  Scenario: A task that runs is not deleted
    Given a daemon whose pool has
      | pace | 4 |
    When I submit task "runs"
    And I run "llama-orch rm {runs}"
    Then it exits with 1
    And it says "cancel it first"
    When I send DELETE "/v1/tasks/nobodys"
    Then the answer is 404 NOT_FOUND
