import java.util.HashMap;
import java.util.Map;

import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/**
 * Calls providers for ever, in a thread for each way of finding them that Dubbo 3 knows: REGISTRY WAY... Says for each call
 * its way and who answered, or why nobody did.
 */
public class Consumer {
    public static void main(String[] args) throws Exception {
        ApplicationConfig application = new ApplicationConfig("till");
        application.setQosEnable(false);
        DubboBootstrap bootstrap = DubboBootstrap.getInstance()
                .application(application)
                .registry(new RegistryConfig(args[0]));
        Map<String, ReferenceConfig<Greeter>> references = new HashMap<>();
        for (int i = 1; i < args.length; i++) {
            ReferenceConfig<Greeter> reference = new ReferenceConfig<>();
            reference.setId(args[i]);
            reference.setInterface(Greeter.class);
            reference.setGroup("blue");
            reference.setVersion("1.0");
            reference.setParameters(new HashMap<>(Map.of("migration.step", args[i])));
            reference.setCheck(false);
            reference.setRetries(0);
            bootstrap.reference(reference);
            references.put(args[i], reference);
        }
        bootstrap.start();
        references.forEach((way, reference) -> new Thread(() -> call(way, reference.get())).start());
    }

    private static void call(String way, Greeter greeter) {
        while (true) {
            String who;
            try {
                who = greeter.who();
            } catch (Exception error) {
                who = "nobody: " + String.valueOf(error.getMessage()).split("\n")[0];
            }
            System.out.println(way + " " + who);
            try {
                Thread.sleep(20);
            } catch (InterruptedException end) {
                return;
            }
        }
    }
}
