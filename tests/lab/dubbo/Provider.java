import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;

import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/**
 * A provider of the application `shop`, registered as Dubbo does it by default: REGISTRY IP PORT [PEER_PORT]. It answers its
 * IP. Where a peer on this host is given, it opens connections to it, and never looks at them again.
 */
public class Provider {
    private static final List<Socket> leaked = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        ApplicationConfig application = new ApplicationConfig("shop");
        application.setQosEnable(false);
        ProtocolConfig protocol = new ProtocolConfig("dubbo", Integer.parseInt(args[2]));
        protocol.setHost(args[1]);
        ServiceConfig<Greeter> service = new ServiceConfig<>();
        service.setInterface(Greeter.class);
        service.setRef(() -> args[1]);
        service.setGroup("blue");
        service.setVersion("1.0");
        // In milliseconds: for minutes after its start a provider would be asked little.
        service.setWarmup(1);
        DubboBootstrap.getInstance()
                .application(application)
                .registry(new RegistryConfig(args[0]))
                .protocol(protocol)
                .service(service)
                .start();
        for (int i = 0; args.length > 3 && i < 4; i++) {
            leaked.add(new Socket("127.0.0.1", Integer.parseInt(args[3])));
        }
        System.out.println("ready");
        new CountDownLatch(1).await();
    }
}
