;; Never answers.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (loop (br 0)) unreachable)
